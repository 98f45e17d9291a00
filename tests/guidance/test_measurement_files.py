"""Measurements from npz files."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.guidance import measurement
from diffusion_fw.guidance.measurement import read_measurement
from diffusion_fw.guidance.operators import AveragePool, Blur, ChannelMatrix, Mask, Matrix

IMAGE = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 4, 4)
MATRIX = np.random.default_rng(0).normal(size=(3, 16))
CASES = {
    "mask": ({"mask": np.eye(4, dtype=bool), "measurement": IMAGE}, Mask(torch.eye(4, dtype=torch.bool))),
    "average_pool": ({"average_pool": np.array(2), "measurement": IMAGE[:, :2, :2]}, AveragePool(2)),
    "blur": ({"blur": np.array(0.8), "measurement": IMAGE}, Blur(0.8)),
    "matrix": ({"matrix": MATRIX, "measurement": IMAGE.ravel()[:3]}, Matrix(torch.from_numpy(MATRIX), (1, 4, 4))),
    "channel_matrix": (
        {"channel_matrix": MATRIX[:2, :1], "measurement": IMAGE.repeat(2, 0)},
        ChannelMatrix(torch.from_numpy(MATRIX[:2, :1])),
    ),
}


@pytest.fixture
def file(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "measurement.npz", **arrays)
        return str(tmp_path / "measurement.npz")

    return write


@pytest.mark.parametrize("case", CASES)
def test_operator_and_measurement_are_those_of_the_file(file, case):
    arrays, expected = CASES[case]
    operator, y = read_measurement(file(**arrays), (1, 4, 4))
    assert torch.equal(y, torch.from_numpy(arrays["measurement"]))
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(operator(x), expected(x))
    assert torch.equal(operator.pseudo_inverse(y), expected.pseudo_inverse(y))


def test_pixels_become_values_of_the_model(file):
    pixels = np.array([[[0, 51], [204, 255]]], dtype=np.uint8)
    _, y = read_measurement(file(mask=np.ones((2, 2)), measurement=pixels), (1, 2, 2))
    torch.testing.assert_close(y, torch.tensor([[[-1.0, -0.6], [0.6, 1.0]]]))


@pytest.mark.parametrize("name", ["posterior", "replacement"])
def test_a_guidance_of_a_file_is_that_of_its_operator_and_measurement(file, tools, name):
    known, y = torch.tensor([True, False, True, False]), torch.tensor([0.7, 0.0, -0.2, 0.0])
    path = file(mask=known.numpy(), measurement=y.numpy())
    denoiser = tools.Mixture()
    read = dfw.build("guidance", name, denoiser=denoiser, shape=(4,), file=path)
    given = dfw.build("guidance", name, denoiser=denoiser, operator=Mask(known), measurement=y)
    x, level = tools.draw(), denoiser.schedule(tools.times(0.4))
    assert torch.equal(read(x, level).x0, given(x, level).x0)
    assert not torch.isclose(read(x, level).x0, denoiser(x, level).x0).all()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"measurement": IMAGE},
            r"holds measurement; it must hold measurement and one of mask, average_pool, blur, matrix, channel_matrix",
        ),
        ({"mask": np.ones(4)}, "holds mask; it must hold measurement and one of"),
        ({"mask": np.ones(4), "matrix": MATRIX, "measurement": IMAGE}, "holds mask, matrix, measurement; it must"),
        ({"mask": np.ones((5, 5)), "measurement": IMAGE}, r"mask \(5, 5\) and measurement \(1, 4, 4\) do not fit"),
        (
            {"mask": np.ones(4), "measurement": IMAGE[0]},
            r"measurement \(4, 4\) do not fit examples of shape \(1, 4, 4\)",
        ),
        ({"average_pool": 3, "measurement": IMAGE[:, :1, :1]}, r"do not fit examples of shape \(1, 4, 4\)"),
        ({"average_pool": 0, "measurement": IMAGE}, r"do not fit examples of shape \(1, 4, 4\)"),
        ({"blur": 0.0, "measurement": IMAGE}, r"do not fit examples of shape \(1, 4, 4\)"),
        ({"average_pool": np.ones(2), "measurement": IMAGE}, r"do not fit examples of shape \(1, 4, 4\)"),
        ({"matrix": MATRIX[:, :9], "measurement": IMAGE.ravel()[:3]}, r"matrix \(3, 9\) and measurement \(3,\)"),
        ({"matrix": MATRIX[0], "measurement": IMAGE.ravel()[:3]}, r"matrix \(16,\) and measurement \(3,\)"),
        ({"channel_matrix": np.ones((1, 3)), "measurement": IMAGE}, r"channel_matrix \(1, 3\) and measurement"),
        ({"channel_matrix": np.ones(1), "measurement": IMAGE}, r"channel_matrix \(1,\) and measurement"),
        ({"mask": np.ones(4), "measurement": np.array("text")}, "is not an npz file of numbers"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_key(file, tools, arrays, message):
    path = file(**arrays)
    with pytest.raises(dfw.ConfigError, match=rf"^guidance=replacement: guidance\.replacement\.file: .*{message}"):
        dfw.build("guidance", "replacement", denoiser=tools.Mixture(), shape=(1, 4, 4), file=path)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize(
    "content", [None, b"", b"no archive", pickle.dumps(Trap())], ids=["missing", "", "text", "pickle"]
)
def test_what_is_no_file_of_numbers_is_refused_and_runs_nothing(tmp_path, content):
    path = tmp_path / "measurement.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(dfw.ConfigError, match="is not an npz file of numbers"):
        read_measurement(str(path), (4,))


def test_an_array_of_objects_is_refused_and_runs_nothing(file):
    path = file(mask=np.ones(4), measurement=np.array([Trap()] * 4, dtype=object))
    with pytest.raises(dfw.ConfigError, match="is not an npz file of numbers"):
        read_measurement(path, (4,))


def test_a_file_that_unpacks_to_more_than_the_limit_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "measurement.npz"
    zeros = np.zeros((1, 1000, 1000))
    np.savez_compressed(path, mask=np.ones((1, 1000, 1000), dtype=bool), measurement=zeros)
    monkeypatch.setattr(measurement, "LARGEST", 9_000_000)
    with monkeypatch.context() as context:
        context.setattr(np, "load", lambda *args, **kwargs: pytest.fail("unpacked"))
        with pytest.raises(dfw.ConfigError, match=r"unpacks to 9,000,\d\d\d bytes; at most 9,000,000 are read"):
            read_measurement(str(path), (1, 1000, 1000))
    np.savez(path, mask=np.ones((1, 1000, 1000), dtype=bool), measurement=zeros)
    assert read_measurement(str(path), (1, 1000, 1000))[1].shape == (1, 1000, 1000)


@pytest.mark.parametrize("claimed", [10**7, 10**17])
def test_an_array_that_claims_more_than_the_file_holds_is_refused(tmp_path, claimed):
    path, header = tmp_path / "measurement.npz", io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (claimed,)})
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("mask", "measurement"):
            archive.writestr(f"{name}.npy", header.getvalue() + bytes(64))
    with pytest.raises(dfw.ConfigError, match="is not an npz file of numbers"):
        read_measurement(str(path), (4,))


def test_a_single_array_is_refused(tmp_path):
    np.save(tmp_path / "y.npy", IMAGE)
    with pytest.raises(dfw.ConfigError, match="is not an npz file of numbers"):
        read_measurement(str(tmp_path / "y.npy"), (1, 4, 4))


@pytest.mark.parametrize(("path", "kind"), [("/dev/zero", "device"), ("pipe", "pipe"), (".", "folder")])
def test_a_file_that_is_not_regular_is_refused_at_once(tmp_path, path, kind):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(dfw.ConfigError, match=f"it is a {kind}, not a regular file"):
        read_measurement(str(tmp_path / path), (1, 4, 4))
