"""Protocols round and resize as the evaluators that they are named after."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import diffusion_fw as dfw
from diffusion_fw.metrics.feature_statistics import source
from diffusion_fw.metrics.features.extractor import ImageNetwork
from diffusion_fw.metrics.features.resize import bicubic, tf1_bilinear
from diffusion_fw.metrics.protocol import PROTOCOLS, find, under

SIZES = [((4, 6), (9, 7)), ((7, 5), (3, 4)), ((1, 3), (4, 4)), ((32, 32), (35, 35)), ((8, 8), (8, 8))]


def images(size: tuple[int, int], channels: int = 3) -> Tensor:
    return torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Mean(ImageNetwork):
    """The mean colour of the upper left quarter."""

    size = (13, 13)
    resize = staticmethod(tf1_bilinear)
    name = "mean"
    settings = "quarter"
    num_features = 3

    def embed(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (3, *self.size)
        return images[:, :, :6, :6].mean((2, 3))


def loop(image: Tensor, size: tuple[int, int]) -> Tensor:
    """resize_bilinear of TensorFlow 1 as its kernel is written: a loop over the pixels of one channel."""
    height, width = image.shape
    result = torch.empty(size, dtype=torch.float64)
    for i in range(size[0]):
        y = i * height / size[0]
        top, bottom = math.floor(y), min(math.floor(y) + 1, height - 1)
        for j in range(size[1]):
            x = j * width / size[1]
            left, right = math.floor(x), min(math.floor(x) + 1, width - 1)
            upper = image[top, left] + (image[top, right] - image[top, left]) * (x - left)
            lower = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * (x - left)
            result[i, j] = upper + (lower - upper) * (y - top)
    return result


@pytest.mark.parametrize(("size", "target"), SIZES)
def test_the_rule_of_tensorflow_1_is_that_of_its_kernel(size: tuple[int, int], target: tuple[int, int]) -> None:
    values = images(size)
    expected = torch.stack([torch.stack([loop(channel.double(), target) for channel in image]) for image in values])
    torch.testing.assert_close(tf1_bilinear(values, target).double(), expected, rtol=0, atol=1e-5)


def test_the_rule_of_nvidias_inception_is_that_of_tensorflow_1() -> None:
    """Its graph shifts an affine grid by 1 / N - 1 / N', and repeats the border."""
    values, size, target = images((6, 10)), (6, 10), (11, 13)
    theta = torch.eye(2, 3)
    theta[0, 2] += 1 / size[1] - 1 / target[1]
    theta[1, 2] += 1 / size[0] - 1 / target[0]
    grid = torch.nn.functional.affine_grid(theta.expand(2, 2, 3), [2, 3, *target], align_corners=False)
    expected = torch.nn.functional.grid_sample(values, grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(tf1_bilinear(values, target), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "target"), [*SIZES, ((40, 30), (11, 13))])
def test_the_clean_rule_is_that_of_pil_on_floats(size: tuple[int, int], target: tuple[int, int]) -> None:
    values = images(size)
    pixels = (127.5 * (values + 1)).numpy()
    expected = np.stack(
        [
            [
                np.asarray(Image.fromarray(channel).resize(target[::-1], Image.Resampling.BICUBIC)).clip(0, 255)
                for channel in image
            ]
            for image in pixels
        ]
    )
    found = 127.5 * (bicubic(values, target) + 1)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=5e-3)


def test_samples_are_rounded_as_published() -> None:
    pixel = torch.tensor([-9.0, 0.0, 0.25, 0.5, 0.75, 127.0, 127.5, 254.5, 254.99, 255.0, 300.0], dtype=torch.float64)
    x = (pixel / 127.5 - 1).float()
    assert find("adm").quantise(x).tolist() == [0, 0, 0, 0, 0, 127, 127, 254, 254, 255, 255]
    assert find("edm").quantise(x).tolist() == [0, 0, 0, 1, 1, 127, 128, 255, 255, 255, 255]
    kept = find("clean").quantise(x)
    torch.testing.assert_close(127.5 * (kept + 1), pixel.clamp(0, 255).float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_pixels_stay_as_they_are(name: str) -> None:
    """Reading an image and writing it again changes no pixel, but where the rule rounds down what float32 lost."""
    pixels = torch.arange(256, dtype=torch.uint8)
    again = find(name).quantise(pixels.float() / 127.5 - 1)
    if again.dtype == torch.uint8:
        assert (again.int() - pixels.int()).abs().max() <= (1 if name == "adm" else 0)
    else:
        torch.testing.assert_close(again, pixels.float() / 127.5 - 1)


def test_adm_rounds_half_a_pixel_value_down() -> None:
    x = torch.linspace(-1, 1, 100_001)
    mean = {name: float(find(name).quantise(x).double().mean()) for name in ("adm", "edm")}
    assert mean["adm"] == pytest.approx(127.0, abs=0.01)
    assert mean["edm"] == pytest.approx(127.5, abs=0.01)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_features_resize_by_the_rule_of_the_protocol(name: str) -> None:
    own = Mean()
    changed = under(name, own)
    x = images((5, 7))
    values = find(name).quantise(x)
    resized = find(name).resize(values.float() / 127.5 - 1 if values.dtype == torch.uint8 else values, own.size)
    torch.testing.assert_close(changed(values), own.embed(resized))
    assert own.resize is tf1_bilinear


def test_the_name_and_the_fingerprint_say_the_protocol() -> None:
    own = Mean()
    found = [own, *(under(name, own) for name in PROTOCOLS)]
    assert [each.name for each in found] == ["mean", "mean[adm]", "mean[edm]", "mean[clean]"]
    assert len({each.fingerprint() for each in found}) == len(found)
    assert len({each.settings for each in found}) == len(found)


def test_a_gray_image_is_as_its_three_channels() -> None:
    gray = images((5, 5), channels=1)
    for name in PROTOCOLS:
        changed = under(name, Mean())
        torch.testing.assert_close(changed(gray), changed(gray.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("name", ["digits", "pixels"])
def test_features_of_any_size_are_not_resized(name: str) -> None:
    own = dfw.build("features", name, shape=(1, 8, 8))
    values = torch.randint(0, 256, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for protocol in PROTOCOLS:
        assert torch.equal(under(protocol, own)(values), own(values))


def test_the_code_of_the_rule_is_part_of_what_statistics_are_cached_under() -> None:
    found = source(under("clean", Mean()))
    assert "def bicubic(" in found
    assert "class FeatureExtractor(" in found
    assert "class Mean(" in found
    assert "class DigitsClassifier(" in source(dfw.build("features", "digits", shape=(1, 8, 8)))


def test_the_weights_are_shared() -> None:
    own = dfw.build("features", "digits", shape=(1, 8, 8))
    assert next(under("adm", own).parameters()) is next(own.parameters())


def test_bad_protocols_are_refused() -> None:
    with pytest.raises(dfw.ConfigError, match=r"protocol=tf2: must be one of adm, edm, clean"):
        under("tf2", Mean())
    with pytest.raises(dfw.ConfigError, match=r"protocol=adm rounds .* but data=... holds floats"):
        find("adm", pixels=False)
