"""Heun's method on the probability flow, EDM's deterministic sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.euler import euler_stage
from diffusion_fw.samplers.methods.exponential import hold_eps
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep, Stage


def heun_stages(level: NoiseLevel, end: NoiseLevel) -> tuple[Stage, ...]:
    """The stages of a Heun step between two levels, which to sigma = 0 and from alpha = 0 is Euler's."""
    predictor = euler_stage(level, end)
    if end.sigma == 0 or level.alpha == 0:
        return (predictor,)
    c_x, c_eps = (coefficient.item() for coefficient in hold_eps(level, end))
    return predictor, Stage(end, c_x, (c_eps / 2, c_eps / 2))


def heun_steps(levels: NoiseLevel) -> list[LinearStep]:
    """Heun's step from each of the levels (N + 1,) to the next."""
    *rows, last = levels.unbind()
    pairs = zip(rows, [*rows[1:], last], strict=True)
    return [LinearStep(end.t.item(), heun_stages(level, end)) for level, end in pairs]


@register("sampler", "heun")
@dataclass(frozen=True)
class Heun(LinearSampler):
    """x_s / alpha_s = x_t / alpha_t + (rho_s - rho_t) (eps_t + eps_s) / 2, eps_s from an Euler step to s.

    Karras et al. 2022, algorithm 1, on any path: rho = sigma / alpha. The step to sigma = 0 is Euler's, and so N steps
    take 2 N - 1 evaluations; so is a first step from alpha = 0.
    """

    order: ClassVar[int | None] = 2
    evaluations_per_step: ClassVar[int | None] = 2
    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        return heun_steps(self.levels(schedule))
