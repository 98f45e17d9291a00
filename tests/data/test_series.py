"""Series of files: what is read, how it is cut into windows, and that nothing of the held-out part is trained on."""

from __future__ import annotations

import wave

import numpy as np
import pytest
import torch

import diffusion_fw as dfw


def series(path, **parameters):
    return dfw.build("data", "series", path=str(path), **{"length": 10, "standardize": False, **parameters})


def write_wav(path, values, width):
    """Integers (T, C) of ``width`` bytes as PCM."""
    with wave.open(str(path), "wb") as sound:
        sound.setparams((values.shape[1], width, 8000, len(values), "NONE", ""))
        raw = (values + (128 if width == 1 else 0)).astype("<i4").reshape(-1, 1)
        sound.writeframes(raw.view(np.uint8).reshape(-1, 4)[:, :width].tobytes())


def test_the_end_of_a_single_series_is_held_out_and_no_value_is_in_both_splits(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(205.0))
    data = series(tmp_path / "a.npy", stride=3, test_fraction=0.2)
    assert data.shape == (1, 10)
    assert set(data.train.values.flatten().tolist()) == set(range(163))
    assert set(data.test.values.flatten().tolist()) == set(range(164, 204))
    assert data.train.values[1, 0].tolist() == list(range(3, 13))
    assert "the last 0.2 held out" in data.describe()


def test_windows_of_several_series_are_of_whole_series_in_one_split(tmp_path):
    for index in range(40):
        np.save(tmp_path / f"{index}.npy", np.full(25, float(index)))
    data = series(tmp_path)
    held, trained = (set(part.values.flatten().tolist()) for part in (data.test, data.train))
    assert held | trained == set(range(40))
    assert not held & trained
    assert len(data.train) + len(data.test) == 80
    np.save(tmp_path / "new.npy", np.full(25, 99.0))
    again = series(tmp_path)
    assert held <= set(again.test.values.flatten().tolist()) <= held | {99.0}


def test_the_scale_is_that_of_the_training_part_of_each_channel(tmp_path):
    random = np.random.default_rng(0)
    values = random.normal([[5.0], [-100.0], [7.0]], [[2.0], [30.0], [0.0]], (3, 1000))
    values[:, 900:] += 1e6
    np.save(tmp_path / "a.npy", values)
    data = series(tmp_path / "a.npy", standardize=True)
    found = data.train.values.transpose(0, 1).flatten(1)
    torch.testing.assert_close(found.mean(1), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std(1, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-4, rtol=0)
    assert data.test.values[:, 0].min() > 1000
    assert f"m = {values[0, :900].mean():.4g}" in data.describe()
    assert data.bounds == (float(data.train.values.min()), float(data.train.values.max()))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_wav_files_of_any_width_are_the_same_numbers_from_minus_1_to_1(tmp_path, width):
    wanted = np.array([[0, -128], [127, 64], [-1, 3], [5, -77]])
    write_wav(tmp_path / "a.wav", wanted * 256 ** (width - 1), width)
    data = series(tmp_path / "a.wav", length=2, test_fraction=0.5)
    found = torch.cat([data.train.values, data.test.values]).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(found, torch.tensor(wanted / 128, dtype=torch.float32))


def test_all_kinds_of_files_hold_the_same_series(tmp_path):
    values = np.random.default_rng(0).normal(size=(2, 60))
    np.save(tmp_path / "a.npy", values)
    np.save(tmp_path / "b.npy", values.astype(">f4"))
    np.savez(tmp_path / "a.npz", any_name=values)
    (tmp_path / "a.csv").write_text("left,right\n" + "\n".join(f"{a},{b}" for a, b in values.T.tolist()) + "\n")
    (tmp_path / "b.csv").write_text("\n".join(f"{a},{b}" for a, b in values.T.tolist()))
    first, *others = (series(tmp_path / name).train.values for name in ("a.npy", "b.npy", "a.npz", "a.csv", "b.csv"))
    assert first.shape == (5, 2, 10)
    for other in others:
        torch.testing.assert_close(other, first)


def test_an_array_of_three_axes_is_several_series(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(6, 1, 1).repeat(20, 2))
    data = series(tmp_path / "a.npy", test_fraction=0.4)
    assert len(data.series) == 6
    assert not set(data.train.values.unique().tolist()) & set(data.test.values.unique().tolist())


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("code of the file ran",))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.npy", np.array([Trap()], dtype=object), "a.npy"),
        ("a.npy", np.zeros((2, 2, 2, 2)), r"\(2, 2, 2, 2\)"),
        ("a.npy", np.zeros(50, dtype=complex), "complex"),
        ("a.npy", np.array(["a"]), "numbers"),
        ("a.npy", np.array([0.0, np.nan] * 50), "not finite"),
        ("a.npy", np.zeros(8), "data.length=10.*training.*7 values"),
        ("a.csv", "1,2\n3\n", "columns"),
        ("a.csv", "time\n1\nx\n", "a.csv is not a readable series"),
        ("a.csv", "", "a.csv"),
        ("a.wav", "no sound", "a.wav is not a readable series"),
        ("a.txt", "1", "npy, npz, csv, wav"),
    ],
)
def test_what_is_no_series_is_refused_by_its_file_and_runs_nothing(tmp_path, name, content, says):
    path = tmp_path / name
    if isinstance(content, str):
        path.write_text(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(dfw.ConfigError, match=says):
        series(path).describe()


@pytest.mark.parametrize("place", ["absent", "."])
def test_a_place_without_series_is_refused(tmp_path, place):
    with pytest.raises(dfw.ConfigError, match=r"data.path=.*npy, npz, csv, wav"):
        series(tmp_path / place).shape  # noqa: B018


def test_series_of_other_numbers_of_channels_are_refused_by_their_names(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(30))
    np.save(tmp_path / "two.npy", np.zeros((2, 30)))
    with pytest.raises(dfw.ConfigError, match=r"one.npy has 1, two.npy has 2"):
        series(tmp_path).shape  # noqa: B018
