"""Euler's method on the probability flow."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep
from diffusion_fw.samplers.methods.runge_kutta import euler_stage


@register("sampler", "euler")
@dataclass(frozen=True)
class Euler(LinearSampler):
    """x_s / alpha_s = x_t / alpha_t + (rho_s - rho_t) eps, rho = sigma / alpha; that is alpha_s x0 + sigma_s eps.

    Euler's method on d(x / alpha) = eps d rho (Karras et al. 2022, algorithm 1 without its correction), and in any
    other scale of x and time that makes the path a straight line: on a flow schedule x_s = x_t + (s - t) (eps - x0). It
    is DDIM with eta = 0.
    """

    order: ClassVar[int | None] = 1
    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        pairs = itertools.pairwise(self.levels(schedule))
        return [LinearStep(end.t.item(), (euler_stage(level, end),)) for level, end in pairs]
