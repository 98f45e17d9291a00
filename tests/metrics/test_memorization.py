"""Copies of training examples are found, and an honest model raises no alarm."""

from __future__ import annotations

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.data.dataset import to_model, to_pixels
from diffusion_fw.metrics.memorization import ALARM, mann_whitney, rarity
from diffusion_fw.noise import generator

PLANTED = {3: 100, 50: 200, 77: 300, 120: 400, 199: 500}
"""Samples that are replaced, and by which training examples."""


def planted(data, honest, change=lambda x: x):
    samples = honest.clone()
    samples[list(PLANTED)] = change(data.train.values[list(PLANTED.values())])
    return samples


def noisy(images, size=0.02):
    return to_pixels(to_model(images) + size * torch.randn(images.shape, generator=generator(0)))


@pytest.mark.parametrize("change", [lambda x: x, noisy])
def test_five_copies_among_two_hundred_samples_are_found_by_their_number(measured, digits, caplog, change):
    result = measured("memorization", digits, planted(digits, digits.test.values[:200], change))
    assert sorted(map(tuple, result.record["copied_samples"])) == sorted(PLANTED.items())
    assert result.record["copies"] == 5
    assert result.value >= 5 / 200 > 2 * result.floor
    assert "5 of 200 samples are copies of training examples" in caplog.text
    (picture,) = result.pictures
    assert picture.is_file()


def test_copies_among_points_are_found(measured, tmp_path):
    data = dfw.build("data", "moons", num_examples=2000)
    result = measured("memorization", data, planted(data, data.test.values[:200]))
    assert sorted(map(tuple, result.record["copied_samples"])) == sorted(PLANTED.items())


@pytest.mark.parametrize("first", range(0, 359 - 100, 50))
def test_held_out_examples_raise_no_alarm(measured, digits, caplog, first):
    result = measured("memorization", digits, digits.test.values[first : first + 100])
    assert result.record["copies"] == 0
    assert result.record["copied_samples"] == []
    assert "copies" not in caplog.text
    ratio = result.further[0]
    assert 0.8 < ratio.value < 1.25
    assert ratio.interval[0] < ratio.value < ratio.interval[1]
    assert abs(result.record["copying_z"]) < 4


def test_honest_points_raise_the_alarm_as_rarely_as_is_stated():
    train, test = (dfw.build("data", "moons", num_examples=1000, seed=seed).test.values.double() for seed in (0, 1))
    many = dfw.build("data", "moons", num_examples=100_000, seed=2).test.values.double()
    near, held = (torch.cat([torch.cdist(part, train).amin(1) for part in x.split(5000)]) for x in (many, test))
    alarms = (rarity(near, held).view(-1, 100) < ALARM / 100).any(1)
    assert float(alarms.double().mean()) <= 5 * ALARM


def test_a_model_of_copies_alone_is_as_near_as_can_be(measured, digits):
    result = measured("memorization", digits, digits.train.values[:100])
    ratio, duplicates = result.further
    assert (result.value, ratio.value) == (1, 0)
    assert result.record["copying_z"] < -10
    assert duplicates.value < 0.1


def test_samples_that_are_equal_are_duplicates(measured, digits):
    samples = digits.test.values[:100].clone()
    samples[60:80] = samples[0]
    duplicates = measured("memorization", digits, samples).further[1]
    assert 0.21 <= duplicates.value <= 0.3
    assert duplicates.floor < 0.05


def test_the_rarity_follows_the_power_law_of_the_held_out_examples():
    held = torch.rand(20_000, generator=generator(1)).double() ** (1 / 5)  # P(d < x) = x^5
    found = rarity(torch.tensor([0.0, 0.1, 0.3]).double(), held)
    assert found[0] == 0
    torch.testing.assert_close(found[1:], torch.tensor([1e-5, 0.3**5]).double(), rtol=0.4, atol=0)


def test_held_out_examples_that_are_copies_make_copies_likely():
    held = torch.cat([torch.zeros(10), torch.rand(90, generator=generator(1))]).double()
    assert float(rarity(torch.zeros(1).double(), held)) == pytest.approx(0.1)


def test_the_score_of_equal_sets_is_0_and_of_separate_ones_known():
    x = torch.arange(10.0)
    assert mann_whitney(x, x) == 0
    # U = 0 of 10 x 10 pairs: -50 / sqrt(100 * 21 / 12).
    assert mann_whitney(x, x + 100) == pytest.approx(-50 / (100 * 21 / 12) ** 0.5)


def test_another_reference_is_refused(build, digits):
    with pytest.raises(dfw.ConfigError, match=r"metric.reference=train: must be test"):
        build("memorization", digits, num_samples=10, reference="train")
