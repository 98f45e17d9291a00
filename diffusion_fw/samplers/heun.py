"""Heun's method on the probability flow, EDM's deterministic sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep
from diffusion_fw.samplers.methods.runge_kutta import heun_steps


@register("sampler", "heun")
@dataclass(frozen=True)
class Heun(LinearSampler):
    """x_s / alpha_s = x_t / alpha_t + (rho_s - rho_t) (eps_t + eps_s) / 2, with eps_s after an Euler step to s.

    Karras et al. 2022, algorithm 1, on any path: rho = sigma / alpha. The step to sigma = 0 is Euler's, so N steps take
    2 N - 1 evaluations; so is a first step from a level without signal (alpha < 0.001 sigma).
    """

    order: ClassVar[int | None] = 2
    evaluations_per_step: ClassVar[int | None] = 2
    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        return heun_steps(self.levels(schedule))
