"""Whether samples are of the class that was asked for."""

from __future__ import annotations

import pytest
import torch

import diffusion_fw as dfw

FEW = {"steps": 60, "seeds": 2}


def test_real_digits_agree_with_their_classes_and_others_do_not(measured, digits):
    samples, labels = digits.test.__getitems__(range(200))
    right = measured("class_agreement", digits, samples, labels, **FEW)
    wrong = measured("class_agreement", digits, samples, (labels + 1) % 10, **FEW)
    assert right.value > 0.9
    assert right.floor > 0.9
    assert right.interval[0] < right.value <= right.interval[1] <= 1
    assert wrong.value < 0.1
    assert right.value == measured("class_agreement", digits, samples, labels, **FEW).value


def test_the_share_is_that_of_the_samples_whose_class_is_right(measured, digits):
    samples, labels = digits.test.__getitems__(range(200))
    right = measured("class_agreement", digits, samples, labels, **FEW).value
    mixed = torch.where(torch.arange(200) < 100, labels, (labels + 5) % 10)
    half = measured("class_agreement", digits, samples, mixed, **FEW).value
    assert half == pytest.approx(right / 2, abs=0.06)


def test_data_or_models_without_classes_are_refused(measured, given, digits):
    points = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(dfw.ConfigError, match="needs data with classes"):
        measured("class_agreement", given(points, points), points)
    with pytest.raises(dfw.ConfigError, match="the model takes no labels"):
        measured("class_agreement", digits, digits.train.values[:50], **FEW)
