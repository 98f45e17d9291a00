"""The Euler-Maruyama method on the reverse SDE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep
from diffusion_fw.samplers.methods.reverse_sde import euler_maruyama


@register("sampler", "euler_maruyama")
@dataclass(frozen=True)
class EulerMaruyama(LinearSampler):
    """x_s = x_t - (t - s) (f x_t + g^2 eps / sigma_t) + g sqrt(t - s) z, with f and g^2 the schedule's rates at t.

    Song et al. 2021, equation 6 with the score -eps / sigma. Weak order 1. The last step gives x0. ConfigError on a
    table, which has no rates.
    """

    stochastic: ClassVar[bool] = True
    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        return euler_maruyama(self.levels(schedule), schedule)
