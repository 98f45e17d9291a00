"""DDPM's ancestral sampling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, Noise
from diffusion_fw.process.level import combine
from diffusion_fw.process.transition import posterior
from diffusion_fw.process.variance import Small, Variance, log_variances
from diffusion_fw.registry import Runtime, register
from diffusion_fw.samplers.sampler import Sampler, Step


@register("sampler", "ddpm")
@dataclass(frozen=True)
class DDPM(Sampler):
    """x_s = c_x0 x0 + c_xt x_t + sqrt(var) z: a draw from p(x_s | x_t), without noise on the last step.

    Ho et al. 2020, algorithm 2, for any two times of any schedule. ``variance=...`` chooses the variance: fixed as in
    their section 3.2, or learned (Nichol & Dhariwal 2021).
    """

    variance: Runtime[Variance] = field(default_factory=Small)

    order: ClassVar[int | None] = None
    stochastic: ClassVar[bool] = True
    uses_variance: ClassVar[bool] = True
    repeats_times: ClassVar[bool] = True

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, *, cond: Any = None, noise: Noise = torch.randn_like
    ) -> Iterator[Step]:
        levels = self.levels(denoiser.schedule)
        transition = posterior(*levels.steps())
        variances = log_variances(levels).to(x)
        c_x0, c_xt, times = transition.c_x0.tolist(), transition.c_xt.tolist(), levels.t.tolist()
        for i, level in enumerate(levels[:-1]):
            prediction = denoiser(x, level, cond)
            x = combine(c_x0[i], prediction.x0, c_xt[i], x)
            if i < self.steps - 1:
                log_variance = self.variance.log_variance(variances[i], prediction.variance_logit)
                x = torch.addcmul(x, torch.exp(log_variance / 2), noise(x))
            yield Step(times[i + 1], x, prediction.x0)
