"""Classifier guidance against Bayes."""

from __future__ import annotations

import pytest
import torch

import diffusion_fw as dfw


def build(denoiser, **parameters):
    return dfw.build("guidance", "classifier", denoiser=denoiser, classifier=denoiser.log_joint, **parameters)


@pytest.mark.parametrize("schedule", ["vp", "flow", "edm", "linear"])
def test_the_exact_classifier_turns_the_model_into_the_conditional_one(tools, schedule):
    """Dhariwal & Nichol 2021, section 4: grad log p(x|y) = grad log p(x) + grad log p(y|x)."""
    denoiser = tools.Mixture(dfw.build("schedule", schedule))
    x, cond = tools.draw(), tools.labels()
    for t in (tools.times(0.3), tools.times(0.01, 0.1, 0.3, 0.5, 0.7, 0.9)):
        level = denoiser.schedule(t)
        with torch.no_grad():
            guided, exact = build(denoiser)(x, level, cond), denoiser(x, level, cond)
        torch.testing.assert_close(guided.x0, exact.x0, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(guided.eps, exact.eps, rtol=1e-9, atol=1e-9)


def test_the_scale_multiplies_the_gradient(tools):
    denoiser = tools.Mixture()
    x, cond, level = tools.draw(), tools.labels(), denoiser.schedule(tools.times(0.4))
    free, exact = denoiser(x, level).eps, denoiser(x, level, cond).eps
    assert torch.equal(build(denoiser, scale=0.0)(x, level, cond).eps, free)
    torch.testing.assert_close(build(denoiser, scale=2.5)(x, level, cond).eps, free + 2.5 * (exact - free))


def test_a_conditional_model_may_be_guided_too(tools):
    denoiser = tools.Mixture()
    x, cond, level = tools.draw(), tools.labels(), denoiser.schedule(tools.times(0.4))
    assert torch.equal(build(denoiser, scale=0.0, conditional=True)(x, level, cond).x0, denoiser(x, level, cond).x0)


def test_guiding_to_no_class_is_refused(tools):
    with pytest.raises(dfw.ConfigError, match="guidance=classifier was called without cond"):
        build(tools.Mixture())(tools.draw(), tools.Mixture().schedule(tools.times(0.5)))
