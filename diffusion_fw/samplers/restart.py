"""Restart: a deterministic sampler that goes back and forth between two noise levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, Positive, Range, Size, register
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep
from diffusion_fw.samplers.methods.runge_kutta import heun_steps


@register("sampler", "restart")
@dataclass(frozen=True)
class Restart(LinearSampler):
    """Heun's method, but K times at rho_min noise is added up to rho_max, and Heun's method returns to rho_min.

    Xu et al. 2023, algorithm 1, with rho = sigma / alpha. ``intervals`` lists [N_restart, K, rho_min, rho_max] in the
    notation of its appendix. rho_min is moved to the nearest level of the grid, and the way back has N_restart levels,
    both ends included, equidistant in rho^(1/7) (Karras et al. 2022, equation 5). The default is the paper's for
    CIFAR-10. The steps of the way back are yielded too, so t rises where a restart begins.
    """

    intervals: tuple[tuple[Annotated[int, Range(2, 1_000_000)], Size, Positive, Positive], ...] = ((3, 2, 0.14, 0.30),)
    s_noise: Positive = 1.0

    evaluations_per_step: ClassVar[int | None] = 2
    returns_to_noise: ClassVar[bool] = True
    stochastic: ClassVar[bool] = True
    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        levels = self.levels(schedule)
        rho = torch.exp(-levels.log_snr / 2)
        plan = [[step] for step in heun_steps(levels)]
        noisy = int((levels.sigma > 0).sum())
        for count, repetitions, low, high in self.intervals:
            landing = int((rho[1:noisy] - low).abs().argmin()) + 1 if noisy > 1 else 0
            if landing == 0 or not rho[landing] < high <= rho[0]:
                raise ConfigError(
                    f"sampler.intervals: [{count}, {repetitions}, {low:g}, {high:g}] needs rho_max between the grid's "
                    f"level nearest to rho_min, {rho[landing].item():.3g}, and its first, {rho[0].item():.3g} "
                    f"(sampler.steps={self.steps}); change the interval, raise sampler.steps, or choose another "
                    "grid=... or schedule=..."
                )
            plan[landing - 1] += self._restart(levels[landing], count, high, schedule) * repetitions
        return [step for steps in plan for step in steps]

    def _restart(self, landing: NoiseLevel, count: int, high: float, schedule: Schedule) -> list[LinearStep]:
        """The noise up to rho = high and the steps back to the landing."""
        low = torch.exp(-landing.log_snr / 2)
        fractions = torch.linspace(0, 1, count, dtype=torch.float64)[:-1]
        rho = torch.lerp(low.new_tensor(high) ** (1 / 7), low ** (1 / 7), fractions) ** 7
        inner = schedule(schedule.time(-2 * rho.log()))
        way = inner.followed_by(landing)
        scale = (way.alpha[0] / landing.alpha).item()
        churn = self.s_noise * (way.sigma[0] * torch.sqrt(-torch.expm1(way.log_snr[0] - landing.log_snr))).item()
        first, *rest = heun_steps(way)
        return [first._replace(scale=scale, churn=churn), *rest]
