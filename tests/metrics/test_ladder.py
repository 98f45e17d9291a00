"""The ladder of corruptions: each rung is worse than the one before, and is what it says."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.data.dataset import InMemory, to_model
from diffusion_fw.metrics.ladder import blurred, compressed, ladder, rungs
from diffusion_fw.metrics.metric import Measurement
from diffusion_fw.noise import generator


@pytest.fixture
def climb(build, tmp_path):
    """climb(name, data, ...) -> the ladder of a metric for a model of the value 1, and the metric and the model."""

    def make(name, data, **settings):
        metric = build(name, data, **settings)
        subject: Any = dfw.Subject(
            denoiser=None,  # type: ignore[arg-type]
            variance=None,  # type: ignore[arg-type]
            data=data,
            samples=lambda: iter(()),
            num_classes=0,
            weights="ema",
            device=torch.device("cpu"),
            seed=0,
            batch_size=100,
            folder=tmp_path,
        )
        each = [Measurement(number, 1.0, {}, {}, floor=0.5) for number in metric.numbers]
        measured = Measurement(**{**vars(each[0]), "further": each[1:]})
        return ladder(metric, subject, measured), metric, subject

    return make


def by_corruption(found):
    """The values of the first number of each corruption, in the order of the rungs."""
    values: dict[str, list[float]] = {}
    for rung in found.record["ladder"]:
        values.setdefault(rung["corruption"], []).append(next(iter(rung["numbers"].values())))
    return values


@pytest.mark.parametrize(("name", "settings"), [("fid", {}), ("kid", {"subsets": 5})])
def test_distances_of_digits_rise_with_every_rung(climb, digits, name, settings):
    found, metric, subject = climb(name, digits, num_samples=500, **settings)
    values = by_corruption(found)
    assert set(values) == {"noise", "blur", "JPEG quality", "without class", "copies"}
    floor = metric.floors(metric.measuring(subject.device), subject.device)[name]
    for corruption, each in values.items():
        assert all(before < after for before, after in itertools.pairwise([floor, *each])), corruption
    (picture,) = found.pictures
    assert picture.name == f"ladder_{name}.png"
    assert picture.is_file()
    assert found.rows["ladder: noise 0.05"].startswith(f"{name} ")


def test_distances_of_points_rise_and_only_noise_classes_and_copies_apply(climb):
    data = dfw.build("data", "moons", num_examples=1000)
    values = by_corruption(climb("energy_distance", data, num_samples=500)[0])
    assert set(values) == {"noise", "without class", "copies"}
    assert values["noise"] == sorted(values["noise"])
    assert values["without class"][0] > 10 * values["noise"][0]


def test_all_numbers_of_a_metric_are_on_the_ladder(climb, digits):
    found, _, _ = climb("precision_recall", digits, num_samples=200)
    assert all(set(rung["numbers"]) == {"precision", "recall"} for rung in found.record["ladder"])


def test_copies_are_found_by_recall_and_by_memorization_alone(climb, digits):
    memorized = by_corruption(climb("memorization", digits, num_samples=200)[0])
    assert memorized["copies"] == [1, 1, 1]
    assert max(memorized["noise"] + memorized["blur"]) < 0.05


def test_rungs_hold_as_many_examples_as_the_floor_and_what_they_say(climb, digits):
    _, metric, subject = climb("fid", digits, num_samples=100, extrapolate=False)
    found = list(rungs(metric, subject))
    assert all(len(rung.examples) == 100 and rung.examples.dtype == torch.uint8 for rung in found)
    (missing,) = (rung for rung in found if rung.corruption == "without class")
    assert missing.labels is not None
    assert set(missing.labels.tolist()) == set(range(10)) - {int(missing.strength)}
    for rung in found:
        if rung.corruption == "copies":
            assert len(rung.examples.unique(dim=0)) == 100 / rung.strength
            train = digits.train.values.flatten(1)
            assert all((train == example.flatten()).all(1).any() for example in rung.examples)
        if rung.corruption == "noise" and rung.strength <= 0.1:
            clean = digits.train.__getitems__(metric.chosen("train", 100)[1])[0]
            middle = (clean > 50) & (clean < 200)
            apart = (to_model(rung.examples) - to_model(clean))[middle]
            assert float(apart.std()) == pytest.approx(rung.strength, rel=0.1)


def test_data_of_floats_keep_their_scale(climb, given):
    images = torch.rand(60, 2, 8, 8, generator=generator(0)) * 5
    data = given(images, images.flip(0))
    _, metric, subject = climb("energy_distance", data, features="pixels", num_samples=50)
    found = list(rungs(metric, subject))
    assert {rung.corruption for rung in found} == {"noise", "blur", "copies"}
    assert all(float(rung.examples.min()) >= -1e-5 and float(rung.examples.max()) <= 5.001 for rung in found)


def test_a_blur_is_the_product_of_gaussians_and_keeps_a_constant():
    image = torch.zeros(1, 1, 15, 15)
    image[0, 0, 7, 7] = 1
    found = blurred(image, 1.0)[0, 0]
    place = torch.arange(-3, 4).float()
    weight = torch.exp(-(place**2) / 2)
    expected = torch.outer(weight, weight) / weight.sum() ** 2
    torch.testing.assert_close(found[4:11, 4:11], expected)
    torch.testing.assert_close(blurred(torch.ones(2, 3, 8, 8), 2.0), torch.ones(2, 3, 8, 8))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_of_the_best_quality_changes_little_and_of_the_worst_much(channels):
    smooth = blurred(torch.randn(3, channels, 16, 16, generator=generator(0)), 2.0)
    errors = [float((compressed(smooth, quality) - smooth).abs().mean()) for quality in (100, 50, 5)]
    assert errors == sorted(errors)
    assert errors[0] < 0.02 < errors[2]


def test_labels_stay_with_their_examples(climb, digits):
    _, metric, subject = climb("fid", digits, num_samples=50, extrapolate=False)
    known = {example.flatten().numpy().tobytes(): int(label) for example, label in zip(*_all(digits), strict=True)}
    for rung in rungs(metric, subject):
        if rung.corruption in ("copies", "without class"):
            assert rung.labels is not None
            found = [known[example.flatten().numpy().tobytes()] for example in rung.examples]
            assert found == rung.labels.tolist()


def _all(digits):
    train: InMemory = digits.train
    return train.values, train.labels
