"""Decaying tones and their closed-form autocovariance."""

from __future__ import annotations

import pytest
import torch

import diffusion_fw as dfw


def tones(**parameters):
    return dfw.build("data", "tones", **{"num_examples": 4000, **parameters})


def test_tones_are_bounded_floats_of_a_channel_with_their_pitch_as_label():
    data = tones()
    values, labels = data.train.values, data.train.labels
    assert data.shape == (1, 64)
    assert values.dtype == torch.float32
    assert not data.pixels
    assert values.abs().max() <= 1
    assert data.bounds == (-1.0, 1.0)
    loudest = torch.fft.rfft(values[:, 0]).abs()[:, 1:].argmax(1) + 1
    pitches = torch.tensor(data.pitches)[labels]
    # The decay widens the line of the pitch, and a cycle of a fast one may be lost.
    assert ((loudest - pitches).abs() <= 1).double().mean() > 0.97


@pytest.mark.parametrize(
    "parameters", [{}, {"decay": 0.0}, {"harmonics": 1, "pitches": (5.0,)}, {"pitches": (2.5, 9.0), "decay": 12.0}]
)
def test_the_mean_is_0_and_the_covariance_that_of_the_formula(parameters):
    """Within five standard errors of each entry, of products whose deviation is measured."""
    data = tones(num_examples=20_000, **parameters)
    x = data.train.values[:, 0].double()
    assert (x.mean(0) / (x.std(0) / len(x) ** 0.5)).abs().max() < 5
    products = x[:, :, None] * x[:, None, ::7]
    error = (products.mean(0) - data.covariance[:, ::7]) / (products.std(0) / len(x) ** 0.5)
    assert error.abs().max() < 5
    assert torch.linalg.eigvalsh(data.covariance).min() > -1e-12


def test_an_example_is_a_function_of_the_seed_and_its_index():
    few, many, other = tones(num_examples=50), tones(), tones(seed=1)
    assert torch.equal(few.train.values, many.train.values[:50])
    assert torch.equal(few.test.values, many.test.values[:50])
    assert len({many.train.fingerprint(), many.test.fingerprint(), other.train.fingerprint()}) == 3


def test_one_pitch_is_no_class():
    data = tones(pitches=(4.0,))
    assert data.class_names == ()
    assert data.train.labels is None


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"pitches": ()}, "data.pitches.*at least one"),
        ({"pitches": (3.0, 11.0)}, "data.pitches.*harmonic 3 of 11.*33.*fewer than 32.*data.length"),
    ],
)
def test_pitches_that_cannot_be_heard_are_refused(parameters, says):
    with pytest.raises(dfw.ConfigError, match=says):
        tones(**parameters)
