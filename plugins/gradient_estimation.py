"""A sampler as a plugin. `python train.py sampler=gradient_estimation sampler.steps=20`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_fw import Denoiser, Noise, Sampler, Step, register


@register("sampler", "gradient_estimation")
@dataclass(frozen=True)
class GradientEstimation(Sampler):
    """x_s / alpha_s = x_t / alpha_t + (r_s - r_t) e, r = sigma / alpha, e = gamma eps + (1 - gamma) eps_last.

    Permenter & Yuan 2024, algorithm 2: DDIM (gamma = 1) whose noise estimate leans away from the last one.
    """

    gamma: float = 2.0

    def trajectory(
        self,
        denoiser: Denoiser,
        x: Tensor,
        *,
        cond: Any = None,
        noise: Noise = torch.randn_like,
    ) -> Iterator[Step]:
        levels = self.levels(denoiser.schedule)
        alpha, ratio = levels.alpha.tolist(), (levels.sigma / levels.alpha).tolist()
        sigma, times = levels.sigma.tolist(), levels.t.tolist()
        last = None
        for i, level in zip(range(self.steps), levels.unbind(), strict=False):
            prediction = denoiser(x, level, cond)
            x = alpha[i + 1] * prediction.x0 + sigma[i + 1] * prediction.eps
            if last is not None:
                x = x + alpha[i + 1] * (ratio[i + 1] - ratio[i]) * (self.gamma - 1) * (prediction.eps - last)
            last = prediction.eps
            yield Step(times[i + 1], x, prediction.x0)
