"""Euler's method on the probability flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.exponential import hold_eps
from diffusion_fw.samplers.linear import LinearSampler, LinearStep, Stage


@register("sampler", "euler")
@dataclass(frozen=True)
class Euler(LinearSampler):
    """x_s / alpha_s = x_t / alpha_t + (rho_s - rho_t) eps, with rho = sigma / alpha.

    Euler's method on d(x / alpha) = eps d rho (Karras et al. 2022, algorithm 1 without its correction). Algebraically
    DDIM with eta = 0, and on a flow schedule the Euler step of dx/dt = eps - x0.
    """

    order: ClassVar[int | None] = 1
    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        levels = self.levels(schedule)
        c_x, c_eps = hold_eps(levels.at(slice(None, -1)), levels.at(slice(1, None)))
        rows = zip(levels.t[1:].tolist(), levels.unbind(), c_x.tolist(), c_eps.tolist(), strict=False)
        return [LinearStep(t, (Stage(level, scale, (gain,)),)) for t, level, scale, gain in rows]
