"""Inpainting by replacement."""

from __future__ import annotations

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.guidance.operators import Mask, Matrix

KNOWN = torch.tensor([True, False, True, False])
VALUES = torch.tensor([0.7, 9.0, -0.2, 9.0])


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_known_values_are_exact_in_the_sample_and_the_rest_is_the_models(tools, sampler):
    denoiser = tools.Mixture()
    guided = dfw.build("guidance", "replacement", denoiser=denoiser, operator=Mask(KNOWN), measurement=VALUES)
    noise = torch.Generator().manual_seed(1)
    x = dfw.build("sampler", sampler, steps=10)(
        guided,
        tools.draw().float(),
        noise=lambda like: torch.randn(like.shape, generator=noise, dtype=like.dtype),
    )
    assert torch.equal(x[:, KNOWN], VALUES[KNOWN].expand(6, 2))
    assert (x[:, ~KNOWN].abs() < 3).all()
    assert x[:, 1].unique().numel() == 6


def test_any_linear_measurement_holds_of_the_sample_and_its_null_space_is_the_models(tools):
    matrix = tools.draw(2, seed=4)
    operator, y = Matrix(matrix, (4,)), torch.tensor([[0.3, -1.0]], dtype=torch.float64).repeat(6, 1)
    denoiser = tools.Mixture()
    guided = dfw.build("guidance", "replacement", denoiser=denoiser, operator=operator, measurement=y)
    torch.testing.assert_close(operator(dfw.build("sampler", "ddim", steps=10)(guided, tools.draw())), y)
    level = denoiser.schedule(tools.times(0.4))
    change = guided(tools.draw(), level).x0 - denoiser(tools.draw(), level).x0
    null_space = torch.eye(4, dtype=torch.float64) - torch.linalg.pinv(matrix) @ matrix
    torch.testing.assert_close(change @ null_space, torch.zeros_like(change), rtol=0, atol=1e-12)


def test_independent_values_leave_the_unknown_ones_exactly_as_without_measurement(tools):
    """For an isotropic Gaussian the known values say nothing of the others, and each value follows its own flow."""
    denoiser = tools.Labelled(tools.draw(1))
    guided = dfw.build("guidance", "replacement", denoiser=denoiser, operator=Mask(KNOWN), measurement=VALUES)
    sampler = dfw.build("sampler", "ddim", steps=10)
    assert torch.equal(sampler(guided, tools.draw())[:, ~KNOWN], sampler(denoiser, tools.draw())[:, ~KNOWN])
