"""Reverse diffusion: the reverse SDE discretized as the forward chain is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.process.transition import posterior
from diffusion_fw.registry import register
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep
from diffusion_fw.samplers.methods.reverse_sde import reverse_steps


@register("sampler", "reverse_diffusion")
@dataclass(frozen=True)
class ReverseDiffusion(LinearSampler):
    """x_s = (2 - a) x_t - G^2 eps / sigma_t + G z, where the forward step is x_t = a x_s + G z.

    Song et al. 2021, equation 46, with a = alpha_t / alpha_s and G^2 the variance of q(x_t | x_s): on DDPM's table
    a = sqrt(1 - beta), G^2 = beta (its algorithm 3), on the variance-exploding path a = 1, G^2 = sigma_t^2 - sigma_s^2
    (algorithm 2); any two levels of any schedule, tables included. Weak order 1. The last step gives x0.
    """

    stochastic: ClassVar[bool] = True
    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        levels = self.levels(schedule)
        start, end = levels.steps()
        variance = posterior(start, end).var_large
        c_x = 2 - start.alpha / end.alpha
        c_eps = -variance / start.sigma
        return reverse_steps(levels, c_x, c_eps, variance.sqrt())
