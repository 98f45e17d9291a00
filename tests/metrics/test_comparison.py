"""What metrics of samples have in common: floor, interval, names, and what they say about bad input."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.metrics.comparison import SampleMetric, random_groups, student, wilson
from diffusion_fw.metrics.sample_set import SampleSet
from diffusion_fw.noise import generator

CPU = torch.device("cpu")


def draw(count, dim, seed, scale=1.0, shift=0.0):
    return torch.randn(count, dim, generator=generator(seed)) * scale + shift


@dataclass(frozen=True)
class Moments(SampleMetric):
    """The mean and the variance of the samples."""

    numbers = {"mean": "lower", "variance": "lower"}

    def against(self, real, device):
        return lambda generated: {
            "mean": float(generated.vectors.double().mean()),
            "variance": float(generated.vectors.double().var()),
        }


def test_the_quantiles_are_those_of_students_distribution():
    """Tables of Student's distribution, two-sided 95%."""
    table = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262, 30: 2.042}
    assert {degrees: round(student(degrees), 3) for degrees in table} == table


def test_the_interval_of_a_share_is_wilsons():
    """Newcombe 1998, table I: 81 of 263 and 15 of 148 successes."""
    assert wilson(81, 263) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert wilson(15, 148) == (pytest.approx(0.0624, abs=1e-4), pytest.approx(0.1605, abs=1e-4))
    assert wilson(0, 20)[0] == 0


def test_the_interval_of_a_mean_is_that_of_the_means_of_groups(given):
    """For a mean the jackknife is the t interval of the group means, which is exact for Gaussians."""
    data = given(draw(50, 1, 0), draw(50, 1, 1))
    metric = Moments(dfw.build("features", "identity", shape=(1,)), data.train, data.test, num_samples=100)
    x = draw(100, 1, 2)
    measure = metric.against(SampleSet(features=x), CPU)
    found = metric.intervals(measure, SampleSet(features=x), measure(SampleSet(features=x)), CPU)["mean"]
    groups = torch.stack([x[random_groups(100, 10) == g].double().mean() for g in range(10)])
    half = 2.262 * float(groups.std()) / math.sqrt(10)
    assert found == (pytest.approx(float(x.mean()) - half, abs=1e-4), pytest.approx(float(x.mean()) + half, abs=1e-4))


@pytest.mark.parametrize("order", ["in turns", "sorted"])
def test_the_order_of_classes_does_not_widen_the_interval(given, order):
    """Ten classes at 0, 1, ..., 9: the deviation of the mean of 1000 is at most sqrt(8.25 / 1000)."""
    data = given(draw(50, 1, 0), draw(50, 1, 1))
    metric = Moments(dfw.build("features", "identity", shape=(1,)), data.train, data.test, num_samples=1000)
    index = torch.arange(1000)
    classes = index % 10 if order == "in turns" else index // 100
    generated = SampleSet(features=classes[:, None].float())
    measure = metric.against(generated, CPU)
    low, high = metric.intervals(measure, generated, measure(generated), CPU)["mean"]
    assert (high - low) / 2 < 2 * 2.262 * math.sqrt(8.25 / 1000)


@pytest.mark.parametrize(("name", "truth"), [("mean", 1.0), ("variance", 1.0)])
def test_intervals_cover_the_truth_as_often_as_they_say(given, name, truth):
    data = given(draw(50, 1, 0), draw(50, 1, 1))
    metric = Moments(dfw.build("features", "identity", shape=(1,)), data.train, data.test, num_samples=100)
    random, covered, runs = generator(3), 0, 300
    for _ in range(runs):
        generated = SampleSet(features=1 + torch.randn(100, 1, generator=random))
        measure = metric.against(generated, CPU)
        low, high = metric.intervals(measure, generated, measure(generated), CPU)[name]
        covered += low <= truth <= high
    assert 0.91 <= covered / runs <= 0.98


def test_intervals_of_the_frechet_distance_and_of_kid_cover_their_expectations(build, given):
    """The expectation is the mean over the repeats, whose truth is known but for their error."""
    real, random, runs = draw(2000, 2, 1), generator(4), 80
    data = given(draw(50, 2, 0), real)
    for name in ("fid", "kid"):
        metric = build(name, data, num_samples=200, **({"subsets": 1} if name == "kid" else {"extrapolate": False}))
        measure, values, intervals = metric.measuring(CPU), [], []
        for _ in range(runs):
            generated = SampleSet(features=0.5 + torch.randn(200, 2, generator=random))
            numbers = measure(generated)
            values.append(numbers[name])
            intervals.append(metric.intervals(measure, generated, numbers, CPU)[name])
        truth = sum(values) / runs
        assert sum(low <= truth <= high for low, high in intervals) / runs >= 0.85
        # Nor are they wider than the deviation over the repeats says.
        half = sum(high - low for low, high in intervals) / runs / 2
        assert 0.7 < half / (student(9) * float(torch.tensor(values).std())) < 1.5


def test_an_evaluation_states_floor_interval_and_names_of_all_numbers(measured, given):
    data = given(draw(150, 2, 0), draw(100, 2, 1))
    result = measured("precision_recall", data, draw(120, 2, 2))
    all_of_them = [result, *result.further]
    assert [item.name for item in all_of_them] == ["precision/identity@120/ema", "recall/identity@120/ema"]
    for item in all_of_them:
        assert item.interval[0] < item.value < item.interval[1]
        assert item.better == "higher"
        assert 0.8 < item.floor <= 1
        assert item.record["floor"] == item.floor
        assert item.record["interval"] == list(item.interval)


def test_the_interval_can_be_left_out(measured, given):
    data = given(draw(150, 2, 0), draw(100, 2, 1))
    assert measured("energy_distance", data, draw(50, 2, 2), interval_groups=0).interval is None
    assert measured("fid", data, draw(50, 2, 2), interval_groups=0).interval is None


def test_too_few_samples_for_the_groups_have_no_interval_and_it_is_said(measured, given, caplog):
    data = given(draw(150, 2, 0), draw(100, 2, 1))
    assert measured("energy_distance", data, draw(19, 2, 2)).interval is None
    assert "metric.interval_groups=10 needs two groups of two samples" in caplog.text


def test_the_floor_is_of_the_split_that_is_not_the_reference(build, given):
    train, test = draw(150, 2, 0), draw(100, 2, 1, shift=1.0)
    for reference, other in (("test", train), ("train", test)):
        metric = build("energy_distance", given(train, test), num_samples=1000, reference=reference)
        measure = metric.measuring(CPU)
        assert metric.floors(measure, CPU) == measure(SampleSet(features=other))
    assert metric.full_name("energy_distance", "ema") == "energy_distance/identity(train)@1000/ema"


@pytest.mark.parametrize("name", ["kid", "fid", "energy_distance", "sliced_wasserstein", "precision_recall"])
def test_samples_that_are_not_finite_have_the_value_nan_and_it_is_said(measured, given, caplog, name):
    x = draw(60, 2, 2)
    x[7, 1] = math.nan
    result = measured(name, given(draw(60, 2, 0), draw(60, 2, 1)), x)
    assert math.isnan(result.value)
    assert result.interval is None
    assert math.isfinite(result.floor)
    assert "1 of 60 samples or their features are not finite" in caplog.text


@pytest.mark.parametrize(
    ("samples", "real", "said"),
    [
        ((0, 1), (-1, 1), "the samples lie in [0, 1] and the data in [-1, 1]"),
        ((-1, 1), (0, 1), "the samples lie in [-1, 1] and the data in [0, 1]"),
        ((0, 255), (0, 1), "the samples lie in [0, 255] and the data in [0, 1]"),
        ((-1, 1), (-1, 1), None),
        ((-0.9, 1.02), (-1, 1), None),
        ((-3, 3), (-1, 1), None),
        ((0, 1), (-3, 3), None),
    ],
)
def test_samples_on_another_scale_than_the_data_are_said(measured, given, caplog, samples, real, said):
    def uniform(seed, low, high):
        return low + (high - low) * torch.rand(60, 1, 4, 4, generator=generator(seed))

    data = given(uniform(0, *real), uniform(1, *real))
    with caplog.at_level(logging.WARNING):
        measured("energy_distance", data, uniform(2, *samples), features="pixels")
    assert ("the samples lie in" in caplog.text) is (said is not None)
    assert said is None or said in caplog.text


def test_samples_of_another_type_than_the_data_are_refused(measured, given):
    images = torch.randint(0, 256, (60, 1, 4, 4), generator=generator(0), dtype=torch.uint8)
    with pytest.raises(dfw.ConfigError, match=r"samples are torch.float32 but the held-out examples torch.uint8"):
        measured("kid", given(images, images), images.float() / 255, features="pixels")


def test_features_of_the_data_that_are_not_finite_are_an_error(build, given):
    data = given(draw(60, 2, 0), draw(60, 2, 1) * math.nan)
    with pytest.raises(dfw.ConfigError, match="features=identity: some features of the data are not finite"):
        build("kid", data, num_samples=60).measuring(CPU)


@pytest.mark.parametrize("name", ["kid", "energy_distance", "memorization", "fid"])
def test_a_split_of_one_example_is_refused(build, given, name):
    with pytest.raises(dfw.ConfigError, match="needs two examples of each split"):
        build(name, given(draw(1, 2, 0), draw(60, 2, 1)), num_samples=60)


def test_real_features_are_computed_once(measured, given, tmp_path):
    data = given(draw(80, 2, 0), draw(60, 2, 1))
    first = measured("kid", data, draw(60, 2, 2), subsets=2)
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert measured("energy_distance", data, draw(60, 2, 2)).floor is not None
    assert files == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert measured("kid", data, draw(60, 2, 2), subsets=2).value == first.value


def test_samples_that_are_just_enough_have_a_value_without_an_interval(measured, digits, caplog):
    result = measured("inception_score", digits, digits.test.values[:20], splits=10)
    assert 1 <= result.value <= 10
    assert result.interval is None
    assert "no interval: there are too few samples to leave a group out: metric.splits=10" in caplog.text
