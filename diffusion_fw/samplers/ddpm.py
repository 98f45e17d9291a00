"""Ancestral sampling, DDPM's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, Noise
from diffusion_fw.process.level import combine
from diffusion_fw.process.transition import posterior
from diffusion_fw.registry import register
from diffusion_fw.samplers.base import Sampler, Step


@register("sampler", "ddpm")
@dataclass(frozen=True)
class DDPM(Sampler):
    """x_s = c_x0 x0 + c_xt x_t + sqrt(var) z: a draw from q(x_s | x_t, x0), without noise on the last step.

    Ho et al. 2020, algorithm 2, for any two times of any schedule; variance "small" is the posterior's, "large" that
    of the forward step, the two choices of its section 3.2.
    """

    variance: Literal["small", "large"] = "small"

    order: ClassVar[int | None] = None
    stochastic: ClassVar[bool] = True

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, *, cond: Any = None, noise: Noise = torch.randn_like
    ) -> Iterator[Step]:
        levels = self.levels(denoiser.schedule)
        transition = posterior(levels.at(slice(None, -1)), levels.at(slice(1, None)))
        variance = transition.var_small if self.variance == "small" else transition.var_large
        deviation = torch.cat([variance[:-1].sqrt(), variance.new_zeros(1)]).tolist()
        c_x0, c_xt, times = transition.c_x0.tolist(), transition.c_xt.tolist(), levels.t.tolist()
        for i, level in zip(range(self.steps), levels.unbind(), strict=False):
            x0 = denoiser(x, level, cond).x0
            x = combine(c_x0[i], x0, c_xt[i], x)
            if deviation[i] > 0:
                x = x + deviation[i] * noise(x)
            yield Step(times[i + 1], x, x0)
