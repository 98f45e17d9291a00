"""The accuracy of a classifier that is trained on samples."""

from __future__ import annotations

import pytest
import torch

import diffusion_fw as dfw

FEW = {"steps": 40, "seeds": 2}


def test_real_digits_teach_and_digits_of_wrong_classes_do_not(measured, digits):
    samples, labels = digits.train.__getitems__(range(0, 1438, 3))
    right = measured("classification_accuracy", digits, samples, labels, **FEW)
    wrong = measured("classification_accuracy", digits, samples, (labels + 1) % 10, **FEW)
    assert right.value > 0.9
    assert abs(right.value - right.floor) < 0.05
    assert wrong.value < 0.15
    assert right.interval[0] < right.value <= right.interval[1] <= 1
    assert right.record["tested_on"] == 359
    assert right.value == measured("classification_accuracy", digits, samples, labels, **FEW).value


def test_a_class_that_is_missing_among_the_samples_is_not_recognised(measured, digits):
    samples, labels = digits.train.__getitems__(range(0, 1438, 3))
    kept = labels != 3
    missing = measured("classification_accuracy", digits, samples[kept], labels[kept], **FEW)
    assert missing.value <= 1 - 0.08


def test_points_are_classified_by_a_perceptron(measured):
    data = dfw.build("data", "moons", num_examples=500)
    result = measured("classification_accuracy", data, *data.train.__getitems__(range(200)), **FEW)
    assert result.value > 0.9


def test_data_or_models_without_classes_are_refused(measured, given, digits):
    points = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(dfw.ConfigError, match="needs data with classes"):
        measured("classification_accuracy", given(points, points), points)
    with pytest.raises(dfw.ConfigError, match="the model takes no labels"):
        measured("classification_accuracy", digits, digits.train.values[:50], **FEW)


def test_the_global_generator_is_left_alone(measured):
    data = dfw.build("data", "moons", num_examples=100)
    torch.manual_seed(5)
    expected = torch.rand(())
    torch.manual_seed(5)
    measured("classification_accuracy", data, *data.train.__getitems__(range(50)), steps=2, seeds=1)
    assert torch.rand(()) == expected
