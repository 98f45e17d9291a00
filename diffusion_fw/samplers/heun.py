"""Heun's method on the probability flow, EDM's deterministic sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.exponential import hold_eps
from diffusion_fw.samplers.linear import LinearSampler, LinearStep, Stage


def heun_stages(start: NoiseLevel, end: NoiseLevel) -> list[tuple[Stage, ...]]:
    """The stages of a Heun step from each of the start levels (N,) to the end level beside it; Euler's to sigma = 0."""
    c_x, c_eps = (coefficient.tolist() for coefficient in hold_eps(start, end))
    corrected = (end.sigma > 0).tolist()
    return [
        (Stage(level_t, scale, (gain,)), Stage(level_s, scale, (gain / 2, gain / 2)))[: 1 + correct]
        for level_t, level_s, scale, gain, correct in zip(
            start.unbind(), end.unbind(), c_x, c_eps, corrected, strict=True
        )
    ]


@register("sampler", "heun")
@dataclass(frozen=True)
class Heun(LinearSampler):
    """x_s / alpha_s = x_t / alpha_t + (rho_s - rho_t) (eps_t + eps_s) / 2, eps_s from an Euler step to s.

    Karras et al. 2022, algorithm 1 and its appendix for any schedule: rho = sigma / alpha. The step to sigma = 0 is
    Euler's, and so N steps take 2 N - 1 evaluations.
    """

    order: ClassVar[int | None] = 2
    evaluations_per_step: ClassVar[int | None] = 2
    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        levels = self.levels(schedule)
        stages = heun_stages(levels.at(slice(None, -1)), levels.at(slice(1, None)))
        return [LinearStep(t, stage) for t, stage in zip(levels.t[1:].tolist(), stages, strict=True)]
