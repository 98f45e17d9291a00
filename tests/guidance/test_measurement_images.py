"""Measurements from image files, by the operators of the config."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion_fw as dfw
from diffusion_fw.data.formats.given_images import read_image
from diffusion_fw.guidance.operators import AveragePool, Blur, Grayscale, Mask

GENERATOR = np.random.default_rng(0)
COLOUR = GENERATOR.integers(0, 256, (8, 6, 3), dtype=np.uint8)
GRAY = COLOUR[..., 0]
KNOWN = np.arange(6) < 3


def values(pixels):
    """Pixels (H, W) or (H, W, C) as the model sees them."""
    return torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1).float() / 127.5 - 1


@pytest.fixture
def images(tmp_path):
    """images(name, pixels) -> the path of a new file."""

    def write(name, pixels):
        Image.fromarray(pixels).save(tmp_path / name)
        return str(tmp_path / name)

    return write


@pytest.fixture
def build(tools):
    """build(name, shape, ...) -> a guidance of a model of images of this shape, as the programs make it."""

    def make(name="replacement", shape=(1, 8, 6), pixels=True, seed=0, **given):
        read = {"read_image": read_image, "pixels": pixels, "seed": seed}
        return dfw.build("guidance", name, denoiser=tools.Mixture(), shape=shape, **read, **given)

    return make


@pytest.mark.parametrize("name", ["replacement", "posterior", "imputation"])
@pytest.mark.parametrize(
    ("key", "value", "channels", "operator"),
    [
        ("mask", "mask.png", 3, Mask(torch.from_numpy(KNOWN).expand(1, 8, 6))),
        ("mask", "mask.jpg", 1, Mask(torch.from_numpy(KNOWN).expand(1, 8, 6))),
        ("average_pool", 2, 1, AveragePool(2)),
        ("blur", 0.8, 3, Blur(0.8)),
        ("grayscale", True, 3, Grayscale()),
    ],
)
def test_an_original_is_degraded_by_the_chosen_operator(build, images, name, key, value, channels, operator):
    pixels = COLOUR if channels == 3 else GRAY
    if key == "mask":
        value = images(value, np.where(KNOWN, np.uint8(255), np.uint8(0)) * np.ones((8, 1), dtype=np.uint8))
    guided = build(name, (channels, 8, 6), image=images("x.png", pixels), **{key: value})
    known = guided.known
    assert torch.equal(known.original, values(pixels))
    torch.testing.assert_close(known.y, operator(values(pixels)[None])[0])
    x = torch.randn(2, channels, 8, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(known.operator(x), operator(x))


@pytest.mark.parametrize(
    ("given", "pixels", "channels"),
    [({"average_pool": 2}, COLOUR[:4, :3], 3), ({"grayscale": True}, GRAY, 3), ({"blur": 1.0}, GRAY, 1)],
)
def test_a_measurement_may_be_an_image_of_its_own_size(build, images, given, pixels, channels):
    known = build("posterior", (channels, 8, 6), measured=images("y.png", pixels), **given).known
    assert torch.equal(known.y, values(pixels))
    assert known.original is None


def test_an_image_is_read_with_the_channels_of_the_model(build, images):
    known = build(shape=(1, 8, 6), image=images("x.png", COLOUR), blur=1.0).known
    assert known.original.shape == (1, 8, 6)
    gray = torch.from_numpy(np.array(Image.fromarray(COLOUR).convert("L")))[None].float() / 127.5 - 1
    assert torch.equal(known.original, gray)
    assert build(shape=(3, 8, 6), image=images("g.png", GRAY), blur=1.0).known.original.shape == (3, 8, 6)


def test_luma_is_what_pillow_writes(images, build):
    gray = np.array(Image.fromarray(COLOUR).convert("L"))
    known = build(shape=(3, 8, 6), measured=images("gray.png", gray), grayscale=True).known
    torch.testing.assert_close(known.operator(values(COLOUR)[None])[0], known.y, rtol=0, atol=1.01 / 127.5)


def test_noise_is_added_to_an_original_for_posterior_by_the_seed(build, images):
    path = images("x.png", np.full((40, 40), 128, dtype=np.uint8))
    shape = (1, 40, 40)
    clean = build("posterior", shape, image=path, blur=1.0).known.y
    one, again, other = (
        build("posterior", shape, image=path, blur=1.0, noise_std=0.2, seed=seed).known.y for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert float((one - clean).std()) == pytest.approx(0.2, rel=0.1)
    given = build("posterior", shape, measured=path, blur=1.0, noise_std=0.2).known.y
    assert float(given.std()) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": "x.png"}, r"guidance\.replacement\.image needs one operator; give beside it one of mask=MASK\.png"),
        ({"image": "x.png", "blur": 1.0, "average_pool": 2}, r"needs one operator, not .*average_pool and .*blur;"),
        ({"image": "x.png", "measured": "x.png", "blur": 1.0}, r"\.image and .*\.measured are given, which are two"),
        ({"image": "x.png", "file": "x.npz"}, r"\.image and guidance\.replacement\.file are given"),
        ({"file": "x.npz", "blur": 1.0}, r"\.file holds the operator already; leave out guidance\.replacement\.blur"),
        ({"blur": 1.0}, r"it needs a measurement; give guidance\.replacement\.image="),
        ({"image": "small.png", "blur": 1.0}, r"\.image=.*small\.png has 3 x 4 pixels; it must have 6 x 8, since"),
        (
            {"measured": "x.png", "average_pool": 2},
            r"\.measured=.* has 6 x 8 pixels; it must have 3 x 4 with ",
        ),
        ({"image": "x.png", "mask": "small.png"}, r"\.mask=.*small\.png has 3 x 4 pixels; it must have 6 x 8"),
        ({"image": "x.png", "mask": "black.png"}, r"\.mask=.* is black: known is what is white"),
        ({"image": "x.png", "average_pool": 4}, r"\.average_pool=4: must divide both sides of .*6 x 8"),
        ({"image": "x.png", "grayscale": True}, r"\.grayscale=true takes colour images, but the model's have one"),
        ({"image": "x.png", "blur": 0.0}, r"\.blur=0\.0: must be .*\(0, 1000\]"),
        ({"image": "none.png", "blur": 1.0}, r"\.image: .*none\.png: there is no such file"),
        ({"image": "text.png", "blur": 1.0}, r"\.image: .*text\.png is not a readable image"),
        ({"image": "x.png", "blur": 1.0, "pixels": False}, r"are no images of 8-bit pixels; give .*\.file=FILE\.npz"),
        ({"image": "x.png", "blur": 1.0, "shape": (4, 8, 6)}, r"have 1 or 3 channels, but the model's have 4"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_key_when_it_is_built(build, images, tmp_path, given, message):
    images("x.png", GRAY)
    images("small.png", GRAY[:4, :3])
    images("black.png", np.zeros((8, 6), dtype=np.uint8))
    (tmp_path / "text.png").write_text("no image")
    paths = {
        key: str(tmp_path / value) if key in ("image", "measured", "file", "mask") else value
        for key, value in given.items()
    }
    with pytest.raises(dfw.ConfigError, match=message):
        build(**paths)


def test_images_are_read_by_the_programs_alone(tools, images):
    given = {"denoiser": tools.Mixture(), "shape": (1, 8, 6), "pixels": True, "image": images("x.png", GRAY), "blur": 1}
    with pytest.raises(dfw.ConfigError, match=r"in Python give operator=\.\.\. and measurement=\.\.\."):
        dfw.build("guidance", "replacement", **given)
