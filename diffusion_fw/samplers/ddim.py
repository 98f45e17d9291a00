"""DDIM: the non-Markovian family between ancestral sampling and a deterministic map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, Noise
from diffusion_fw.process.transition import posterior
from diffusion_fw.registry import Fraction, register
from diffusion_fw.samplers.base import Sampler, Step


@register("sampler", "ddim")
@dataclass(frozen=True)
class DDIM(Sampler):
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - eta^2 var_small) eps + eta sqrt(var_small) z.

    Song et al. 2020, equations 12 and 16: eta = 0 is deterministic, eta = 1 has DDPM's posterior variance.
    """

    eta: Fraction = 0.0

    order: ClassVar[int | None] = 1

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, *, cond: Any = None, noise: Noise = torch.randn_like
    ) -> Iterator[Step]:
        levels = self.levels(denoiser.schedule)
        following = levels.at(slice(1, None))
        variance = self.eta**2 * posterior(levels.at(slice(None, -1)), following).var_small
        direction = (following.sigma.square() - variance).clamp(min=0).sqrt().tolist()
        deviation, alpha, times = variance.sqrt().tolist(), following.alpha.tolist(), following.t.tolist()
        for i, level in zip(range(self.steps), levels.unbind(), strict=False):
            prediction = denoiser(x, level, cond)
            x = alpha[i] * prediction.x0 + direction[i] * prediction.eps
            if deviation[i] > 0:
                x = x + deviation[i] * noise(x)
            yield Step(times[i], x, prediction.x0)
