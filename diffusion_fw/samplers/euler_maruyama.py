"""The Euler-Maruyama method on the reverse SDE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep
from diffusion_fw.samplers.methods.reverse_sde import reverse_steps


@register("sampler", "euler_maruyama")
@dataclass(frozen=True)
class EulerMaruyama(LinearSampler):
    """x_s = x_t - (t - s) (f x_t + g^2 eps / sigma_t) + g sqrt(t - s) z, with f and g^2 the schedule's rates at t.

    Song et al. 2021, equation 6 with the score -eps / sigma, by Euler and Maruyama's method: weak order 1. Needs rates,
    which a table has not (ConfigError). The last step gives x0.
    """

    stochastic: ClassVar[bool] = True
    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        levels = self.levels(schedule)
        start, length = levels[:-1], -levels.t.diff()
        f, g_squared = schedule.rates(start.t)
        c_x = 1 - length * f
        c_eps = -length * g_squared / start.sigma
        return reverse_steps(levels, c_x, c_eps, (length * g_squared).sqrt())
