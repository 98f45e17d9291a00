"""What each condition makes of an example: what it keeps, what it hides, and of what its randomness is a function."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import diffusion_fw as dfw
from diffusion_fw.condition import Told
from diffusion_fw.conditions.source import Table
from diffusion_fw.noise import SampleNoise
from diffusion_fw.registry import ConfigError

SHAPE = (3, 8, 12)


def images(count=6, shape=SHAPE, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def seeded(indices, seed=0):
    return SampleNoise(seed, list(indices))


def refused(like):
    raise AssertionError("it draws noise")


class Images:
    shape = SHAPE


def build(name, **parameters):
    return dfw.build("condition", name, **parameters)


OF_IMAGES = [
    ("grayscale", {}, 1),
    ("low_resolution", {}, 3),
    ("low_resolution", {"factor": 4}, 3),
    ("low_resolution", {"noise": 0.5}, 4),
    ("inpainting", {}, 4),
]


@pytest.mark.parametrize(("name", "parameters", "channels"), OF_IMAGES)
def test_an_image_has_the_stated_channels_and_the_sides_of_the_example(name, parameters, channels):
    source = build(name, **parameters)
    assert source.size(Images()) == channels
    told = source.of(images(), seeded(range(6)))
    assert told.value.shape == (6, channels, *SHAPE[1:])
    assert told.told.tolist() == [True] * 6
    assert source.shown(told).shape[1] in (1, 3)


@pytest.mark.parametrize(("name", "parameters", "channels"), OF_IMAGES)
def test_what_an_example_is_told_depends_on_it_the_seed_and_its_index_alone(name, parameters, channels):
    source, x0 = build(name, **parameters), images()
    whole = source.of(x0, seeded(range(6)))
    for rows in (slice(0, 3), slice(3, 6), slice(5, 6)):
        part = source.of(x0[rows], seeded(range(6)[rows]))
        torch.testing.assert_close(part.value, whole.value[rows], rtol=0, atol=1e-6)
    other = source.of(x0, seeded(range(6), seed=1)).value
    draws = name == "inpainting" or parameters.get("noise")
    assert torch.equal(other, whole.value) != bool(draws)


def test_gray_is_the_mean_over_the_channels():
    x0 = images()
    found = build("grayscale").of(x0, refused).value
    torch.testing.assert_close(found[:, 0], (x0[:, 0] + x0[:, 1] + x0[:, 2]) / 3)
    # Nothing of the colours is left: what has the same gray is told the same.
    shifted = x0 + torch.tensor([0.2, -0.3, 0.1])[:, None, None]
    torch.testing.assert_close(build("grayscale").of(shifted, refused).value, found)


@pytest.mark.parametrize("factor", [2, 4])
def test_low_resolution_depends_on_the_means_of_blocks_alone(factor):
    """Whatever has these means is told the same, so nothing finer is told."""
    source, x0 = build("low_resolution", factor=factor), images()
    small = functional.avg_pool2d(x0, factor)
    blocky = small.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    torch.testing.assert_close(source.of(blocky, refused).value, source.of(x0, refused).value)


@pytest.mark.parametrize("factor", [2, 4])
def test_low_resolution_keeps_what_is_linear_away_from_the_border(factor):
    """Means of blocks and bilinear resizing both keep a + b i + c j; the outer half blocks are clamped."""
    i, j = torch.meshgrid(torch.arange(8.0), torch.arange(12.0), indexing="ij")
    x0 = (0.3 - 0.1 * i + 0.05 * j).expand(1, 3, 8, 12)
    inner = (..., slice(factor // 2, -factor // 2), slice(factor // 2, -factor // 2))
    torch.testing.assert_close(build("low_resolution", factor=factor).of(x0, refused).value[inner], x0[inner])


def test_low_resolution_keeps_the_mean_of_constant_images_exactly_and_is_linear():
    source, x0, y0 = build("low_resolution"), images(), images(seed=1)
    constant = torch.full((1, *SHAPE), 0.37)
    torch.testing.assert_close(source.of(constant, refused).value, constant)
    both = source.of(0.5 * x0 - 2 * y0, refused).value
    torch.testing.assert_close(both, 0.5 * source.of(x0, refused).value - 2 * source.of(y0, refused).value)


def test_the_level_of_the_noise_is_told_and_is_that_of_the_noise():
    """sqrt(1 - s^2) y + s eps keeps the variance of y of variance 1; its correlation with y is sqrt(1 - s^2)."""
    source = build("low_resolution", noise=0.8)
    x0 = torch.randn(2000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x0 = x0.repeat_interleave(2, 2).repeat_interleave(2, 3)
    told = source.of(x0, seeded(range(2000))).value
    clean = build("low_resolution").of(x0, refused).value
    level = told[:, 1]
    assert torch.equal(level, level[:, :1, :1].expand_as(level))
    s = level[:, 0, 0]
    assert 0 <= s.min() < 0.02
    assert 0.78 < s.max() <= 0.8
    torch.testing.assert_close(s.mean(), torch.tensor(0.4), atol=0.02, rtol=0)
    # Within the bins of s: the part of y is kept by sqrt(1 - s^2), and the rest is noise of s times the gain of y.
    rest = told[:, :1] - (1 - s.square()).sqrt().view(-1, 1, 1, 1) * clean
    spread = rest.flatten(1).std(1) / clean.flatten(1).std()
    for low in (0.2, 0.4, 0.6):
        chosen = (s > low) & (s <= low + 0.2)
        ratio = spread[chosen].square().mean().sqrt() / s[chosen].square().mean().sqrt()
        torch.testing.assert_close(ratio, torch.tensor(1.0), atol=0.05, rtol=0)


def test_without_noise_nothing_is_drawn_and_no_channel_tells_it():
    assert build("low_resolution").of(images(), refused).value.shape[1] == 3


def test_what_is_known_is_the_example_and_the_rest_is_zero():
    x0 = images(200)
    told = build("inpainting").of(x0, seeded(range(200))).value
    mask = told[:, 3:]
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(told[:, :3], x0 * mask)


@pytest.mark.parametrize(("smallest", "largest"), [(0.3, 0.8), (0.5, 0.5), (0.0, 0.2), (1.0, 1.0)])
def test_a_rectangle_within_the_bounds_is_hidden(smallest, largest):
    side = 40
    x0 = torch.ones(300, 1, side, side)
    hidden = build("inpainting", smallest=smallest, largest=largest).of(x0, seeded(range(300))).value[:, 1] == 0
    rows, columns = hidden.any(2), hidden.any(1)
    assert torch.equal(hidden, rows[:, :, None] & columns[:, None, :])
    for along in (rows, columns):
        lengths = along.sum(1) / side
        # A side of s covers the centres of s N pixels, one more or less.
        assert lengths.min() >= smallest - 1 / side
        assert lengths.max() <= largest + 1 / side
        torch.testing.assert_close(lengths.mean(), torch.tensor((smallest + largest) / 2), atol=0.03, rtol=0)
        changes = (along[:, 1:] != along[:, :-1]).sum(1)
        assert changes.max() <= 2
    if largest < 1 and smallest > 0:
        # Anywhere: all corners and the middle are hidden at times, and the sides are independent of each other.
        assert all(along[:, place].any() for along in (rows, columns) for place in (0, side // 2, -1))
        spread = torch.stack([rows.float().sum(1), columns.float().sum(1)])
        if smallest < largest:
            assert torch.corrcoef(spread)[0, 1].abs() < 0.2


def test_attributes_are_the_numbers_of_the_data_in_their_order():
    numbers = {"train": torch.tensor([[1.0, 2.0], [0.25, -1.0]]), "test": torch.tensor([[3.0, 4.0]])}

    class Numbered:
        def attributes(self, split):
            return numbers[split]

    source = build("attributes")
    assert source.size(Numbered()) == 2
    told = source.table(Numbered(), "train").rows([1, 0])
    assert told.value.tolist() == [[0.25, -1.0], [1.0, 2.0]]
    assert told.told.all()
    assert source.table(Numbered(), "test").called([0]) == ["3, 4"]
    asked = source.asked({"vector": [0.5, -1]}, (2,), refused)
    assert asked.rows([0]).value.tolist() == [[0.5, -1.0]]


def test_a_table_gives_each_example_its_row():
    table = Table(Told.all(torch.tensor([[0.0], [1.0], [2.0]])), torch.tensor([2, 2, 0]), ("a", "b", "c"))
    assert len(table) == 3
    assert table.rows([2, 0]).value.tolist() == [[0.0], [2.0]]
    assert table.called([0, 2]) == ["c", "a"]
    assert Table.all(torch.zeros(4, 2)).called([1]) == []
    assert table.nbytes == 3 * 4 + 3 + 3 * 8


class Points:
    shape = (2,)


class Gray:
    shape = (1, 8, 8)


@pytest.mark.parametrize(
    ("name", "parameters", "data", "message"),
    [
        ("grayscale", {}, Gray(), r"condition=grayscale needs images in colour.*one channel"),
        ("grayscale", {}, Points(), r"condition=grayscale is made of images \(C, H, W\).*\(2,\)"),
        ("low_resolution", {}, Points(), r"condition=low_resolution is made of images"),
        ("low_resolution", {"factor": 3}, Gray(), r"condition\.low_resolution\.factor=3 does not divide.*\(1, 8, 8\)"),
        ("low_resolution", {"sampled_noise": 0.2}, Gray(), r"sampled_noise=0\.2 is more than .*noise=0"),
        ("inpainting", {"smallest": 0.9}, Gray(), r"smallest=0\.9 is more than condition\.inpainting\.largest=0\.8"),
        ("inpainting", {}, Points(), r"condition=inpainting is made of images"),
    ],
)
def test_what_cannot_be_made_of_the_data_is_refused(name, parameters, data, message):
    with pytest.raises(ConfigError, match=message):
        build(name, **parameters).size(data)
