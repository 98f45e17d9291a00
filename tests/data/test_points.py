"""Toys in the plane."""

from __future__ import annotations

import math

import pytest
import torch

import diffusion_fw as dfw

TOYS = ["moons", "checkerboard", "spiral"]


def points(name, **parameters):
    data = dfw.build("data", name, num_examples=20_000, **parameters)
    return data.train.__getitems__(range(20_000))


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_centred_with_a_mean_variance_of_one(name):
    values, _ = points(name, noise=0.0)
    assert values.dtype == torch.float32
    assert values.shape == (20_000, 2)
    assert values.mean(0).abs().max() < 0.04  # five standard errors
    assert values.var(0).mean().item() == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("name", TOYS)
def test_noise_adds_its_variance(name):
    assert points(name, noise=1.0)[0].var(0).mean().item() == pytest.approx(2, abs=0.08)


@pytest.mark.parametrize("name", TOYS)
def test_toys_depend_on_their_seed_alone_and_their_splits_are_independent(name):
    data, again, other = (dfw.build("data", name, num_examples=100, seed=seed) for seed in (0, 0, 1))
    assert data.train.fingerprint() == again.train.fingerprint()
    assert data.test.fingerprint() == again.test.fingerprint()
    assert len({data.train.fingerprint(), data.test.fingerprint(), other.train.fingerprint()}) == 3
    assert len(data.train) == len(data.test) == 100


@pytest.mark.parametrize("name", TOYS)
def test_toys_have_no_bounds_and_are_compared_as_they_are(name):
    data = dfw.build("data", name)
    assert data.value_range is None
    assert data.default_features == "identity"
    assert data.shape == (2,)


@pytest.mark.parametrize("name", TOYS)
def test_labels_are_those_of_the_named_classes(name):
    data = dfw.build("data", name)
    _, labels = points(name)
    if not data.num_classes:
        assert labels is None
    else:
        assert labels.bincount(minlength=data.num_classes).min() > 9_500


def test_points_of_each_moon_lie_on_a_half_circle_around_its_own_centre():
    values, labels = points("moons", noise=0.0)
    scale = math.sqrt((0.75 + 0.5 - (2 / math.pi) ** 2 + (2 / math.pi - 0.25) ** 2) / 2)
    for label, centre, side in [(0, (-0.5, -0.25), 1), (1, (0.5, 0.25), -1)]:
        offset = values[labels == label].double() * scale - torch.tensor(centre)
        torch.testing.assert_close(offset.norm(dim=1), torch.ones(len(offset)).double(), atol=1e-6, rtol=0)
        assert (side * offset[:, 1] > -1e-6).all()


def test_the_checkerboard_leaves_its_light_squares_empty_and_fills_the_dark_ones_evenly():
    values, _ = points("checkerboard")
    square = ((values / math.sqrt(3) + 1) * 2).floor().long()
    assert square.min() == 0
    assert square.max() == 3
    counts = (4 * square[:, 0] + square[:, 1]).bincount(minlength=16).view(4, 4)
    dark = (torch.arange(4).unsqueeze(1) + torch.arange(4)) % 2 == 0
    assert counts[~dark].sum() == 0
    assert (counts[dark] - 2500).abs().max() < 250  # five standard deviations


def test_the_angle_along_the_spiral_grows_with_the_radius():
    values, labels = points("spiral", noise=0.0, turns=2.0)
    values = values.double()
    radius = values.norm(dim=1)
    angle = 2 * math.pi * 2.0 * radius / 2 + math.pi * labels
    expected = radius.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], 1)
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=0)
