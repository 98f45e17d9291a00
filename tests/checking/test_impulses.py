from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.checking.impulses import variance_error
from diffusion_fw.samplers.ddim import DDIM


def test_the_variance_is_that_of_many_samples():
    schedule = dfw.build("schedule", "vp")
    sampler = dfw.build("sampler", "ddpm", steps=10)
    data = dfw.oracles.Gaussian(torch.zeros(1), 0.5)
    generator = torch.Generator().manual_seed(0)

    def noise(like):
        return torch.randn(like.shape, dtype=like.dtype, generator=generator)

    x = sampler(data.denoiser(schedule), noise(torch.empty(200_000, 1, dtype=torch.float64)), noise=noise)
    assert variance_error(sampler, schedule) == pytest.approx(x.var().item() / 0.25 - 1, abs=5 * (2 / 200_000) ** 0.5)


@dataclass(frozen=True)
class Clipped(DDIM):
    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        yield from super().trajectory(denoiser, x.clamp(-1, 1), cond=cond, noise=noise)


def test_a_sampler_that_is_not_linear_has_none():
    assert variance_error(Clipped(10), dfw.build("schedule", "vp")) is None
