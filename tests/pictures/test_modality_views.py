"""Pictures of series and of clips."""

from __future__ import annotations

import warnings

import pytest
import torch
from PIL import Image

from diffusion_fw.pictures.view import view_for
from diffusion_fw.pictures.waveforms import mean_power

RANGE = (-1.0, 1.0)
TIMES = [1.0, 0.6, 0.3, 0.0]


def draw(count, shape):
    generator = torch.Generator().manual_seed(1)
    if len(shape) == 2:
        return torch.randn(count, *shape, generator=generator) / 3
    return torch.randint(256, (count, *shape), generator=generator, dtype=torch.uint8)


def every_picture(view, folder, values, shape):
    """Each method of a view; the paths that it returned."""
    frames = values[:12].view(4, 3, *shape)
    return [
        view.samples(folder / "samples.png", values, title="run: fid = 1"),
        view.samples(folder / "classes.png", values, ["low", "high"] * (len(values) // 2)),
        view.comparison(folder / "comparison.png", values, values.flip(0), title="title"),
        view.trajectory(folder / "trajectory.png", frames, TIMES),
        view.trajectory(folder / "predicted.png", frames, TIMES, frames.flip(0)),
        view.table(folder / "table.png", values[:12].view(3, 4, *shape), ["a", "b", ""], ["1", "2", "3", "4"]),
        view.animation(folder / "animation.gif", frames, TIMES),
        view.strip(folder / "strip.png", {"first": folder / "samples.png", "second": folder / "classes.png"}),
    ]


def shown(path, frame=0):
    with Image.open(path) as picture:
        picture.seek(frame)
        return picture.convert("RGB")


@pytest.mark.parametrize(("shape", "moves"), [((1, 64), 0), ((9, 1200), 0), ((1, 8, 16, 16), 5), ((3, 11, 8, 12), 5)])
def test_every_picture_of_a_view_is_written_and_those_of_clips_move_too(tmp_path, shape, moves):
    view = view_for(shape, RANGE)
    paths = every_picture(view, tmp_path, draw(16, shape), shape)
    beside = {path.with_suffix(".gif") for path in paths[:6]} if moves else set()
    assert set(tmp_path.iterdir()) == {*paths, *beside}
    for path in beside:
        with Image.open(path) as moving:
            assert (moving.n_frames, moving.info["loop"]) == (shape[1], 0)
    for path in paths:
        with Image.open(path) as picture:
            assert 100 < picture.width < (2000 if path.stem == "strip" else 1200)
            assert 60 < picture.height < 1200
            assert picture.convert("L").getextrema()[0] < 150
    with Image.open(tmp_path / "animation.gif") as moving:
        assert moving.n_frames == len(TIMES)


def test_the_rows_of_a_picture_of_clips_are_their_frames_in_order(tmp_path):
    clips = torch.zeros(2, 1, 4, 8, 8, dtype=torch.uint8)
    clips[1] = torch.tensor([60, 120, 180, 240], dtype=torch.uint8)[:, None, None]
    page = shown(view_for((1, 4, 8, 8), RANGE).samples(tmp_path / "a.png", clips))
    middle = [page.getpixel((x, page.height - 60))[0] for x in range(page.width)]
    seen = [value for value in dict.fromkeys(middle) if value in (60, 120, 180, 240)]
    assert seen == [60, 120, 180, 240]


def test_clips_of_floats_give_the_picture_of_their_pixels(tmp_path):
    values, view = draw(4, (1, 3, 8, 8)), view_for((1, 3, 8, 8), RANGE)
    pixels = view.samples(tmp_path / "pixels.png", values)
    floats = view.samples(tmp_path / "floats.png", values / 127.5 - 1)
    assert pixels.read_bytes() == floats.read_bytes()


def test_a_page_of_other_axes_shows_middle_frames_and_says_so(tmp_path):
    clips = torch.zeros(1, 1, 1, 5, 8, 8, dtype=torch.uint8)
    clips[..., 2, :, :] = 200
    view = view_for((1, 5, 8, 8), RANGE)
    page = shown(view.table(tmp_path / "a.png", clips, [""], ["x"]))
    plain = shown(tmp_path / "a.gif")
    assert page.height > plain.height  # the title
    assert page.getpixel((page.width // 2, page.height - 40)) == (200, 200, 200)
    assert plain.getpixel((plain.width // 2, plain.height - 40)) == (0, 0, 0)


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_series_that_are_constant_or_not_finite_leave_pictures(tmp_path, value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = every_picture(view_for((2, 16), (0.0, 0.0)), tmp_path, torch.full((16, 2, 16), value), (2, 16))
    assert all(path.is_file() for path in paths)


def test_noise_far_beyond_the_data_is_drawn_in_a_scale_of_its_own(tmp_path):
    frames = draw(2, (1, 64)).view(2, 1, 1, 64)
    view = view_for((1, 64), RANGE)
    plain = shown(view.animation(tmp_path / "a.gif", 3 * frames, TIMES[:2])).crop((0, 25, 180, 80))
    wide = shown(view.animation(tmp_path / "b.gif", 300 * frames, TIMES[:2])).crop((0, 25, 180, 80))
    assert plain.tobytes() == wide.tobytes()


def test_the_mean_power_of_white_noise_is_its_variance_and_bad_series_are_left_out():
    values = 2 * torch.randn(4000, 1, 32, generator=torch.Generator().manual_seed(0))
    values[7] = torch.nan
    torch.testing.assert_close(mean_power(values)[1:-1], torch.full((15,), 4.0).double(), rtol=0.1, atol=0)
