"""Reverse diffusion: the reverse SDE in the same discretization as the forward chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep
from diffusion_fw.samplers.methods.reverse_sde import reverse_diffusion


@register("sampler", "reverse_diffusion")
@dataclass(frozen=True)
class ReverseDiffusion(LinearSampler):
    """x_s = (2 - a) x_t - G^2 eps / sigma_t + G z, where the forward step is x_t = a x_s + G z.

    Song et al. 2021, equation 46, with a = alpha_t / alpha_s and G^2 the variance of q(x_t | x_s), for any two levels
    of any schedule. On DDPM's table a = sqrt(1 - beta) and G^2 = beta (algorithm 3), on the variance-exploding path
    a = 1 and G^2 = sigma_t^2 - sigma_s^2 (algorithm 2). Weak order 1. The last step gives x0.
    """

    stochastic: ClassVar[bool] = True
    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        return reverse_diffusion(self.levels(schedule), schedule)
