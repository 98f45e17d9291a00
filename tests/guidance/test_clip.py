"""Clamped predictions."""

from __future__ import annotations

import torch

import diffusion_fw as dfw


def test_x0_is_within_the_bounds_exactly_and_eps_is_what_it_leaves_of_x(tools):
    clip = dfw.build("guidance", "clip", denoiser=tools.Mixture(), data_range=(-0.3, 0.4))
    x = 2 * tools.draw().float()
    level = clip.schedule(tools.times(0.3))
    prediction = clip(x, level)
    assert prediction.x0.min() == torch.tensor(-0.3)
    assert prediction.x0.max() == torch.tensor(0.4)
    expected = (x - level.alpha * prediction.x0) / level.sigma
    torch.testing.assert_close(prediction.eps, expected, rtol=1e-5, atol=1e-5)


def test_values_within_the_bounds_are_left_to_the_bit(tools):
    denoiser = tools.Mixture()
    clip = dfw.build("guidance", "clip", denoiser=denoiser, data_range=(-0.3, 0.4))
    x, level = tools.draw(), clip.schedule(tools.times(0.01))
    before, after = denoiser(x, level), clip(x, level)
    inside = (before.x0 >= -0.3) & (before.x0 <= 0.4)
    assert 0 < inside.sum() < inside.numel()
    assert torch.equal(before.eps[inside], after.eps[inside])
    assert not (before.eps[~inside] == after.eps[~inside]).any()


def test_data_without_bounds_is_left_alone(tools):
    denoiser = tools.Mixture()
    for name in ("clip", "dynamic_threshold"):
        guidance = dfw.build("guidance", name, denoiser=denoiser, data_range=None)
        x, level = 9 * tools.draw(), denoiser.schedule(tools.times(0.5))
        assert torch.equal(guidance(x, level).x0, denoiser(x, level).x0)
        assert torch.equal(guidance(x, level).eps, denoiser(x, level).eps)


def test_a_clipped_ancestral_sampler_is_ho_et_als(tools):
    """Ho et al. 2020's released sampler clamps x_0 and takes the posterior's mean with it."""
    denoiser = tools.Mixture(dfw.build("schedule", "linear"))
    clip = dfw.build("guidance", "clip", denoiser=denoiser, data_range=(-0.5, 0.5))
    x, (level, following) = tools.draw(), denoiser.schedule(tools.times(0.5, 0.499)).unbind()
    x0 = denoiser(x, level).x0.clamp(-0.5, 0.5)
    alpha_bar, previous = level.alpha**2, following.alpha**2
    beta = 1 - alpha_bar / previous
    mean = previous.sqrt() * beta / (1 - alpha_bar) * x0
    mean = mean + (1 - beta).sqrt() * (1 - previous) / (1 - alpha_bar) * x
    transition, prediction = dfw.posterior(level, following), clip(x, level)
    torch.testing.assert_close(transition.c_x0 * prediction.x0 + transition.c_xt * x, mean, rtol=1e-9, atol=1e-9)
