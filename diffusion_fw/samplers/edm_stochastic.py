"""EDM's stochastic sampler: Heun's method with fresh noise before each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, NonNegative, Positive, Range, register
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep
from diffusion_fw.samplers.methods.runge_kutta import heun_stages


@register("sampler", "edm_stochastic")
@dataclass(frozen=True)
class EDMStochastic(LinearSampler):
    """Noise is added up to (1 + gamma) rho, then a Heun step leads to the next level; rho = sigma / alpha.

    Karras et al. 2022, algorithm 2: gamma = min(s_churn / steps, sqrt(2) - 1) for s_tmin <= rho <= s_tmax, else 0, and
    the added noise has standard deviation s_noise. On a table the raised level is the nearest row; it never exceeds
    t = 1. s_churn = 0 is Heun's method. The paper's values (table 5), of which the defaults are the last row:

        s_churn  s_tmin  s_tmax  s_noise
        30       0.01    1       1.007    CIFAR-10, VP
        80       0.05    1       1.007    CIFAR-10, VE
        80       0.05    50      1.003    ImageNet-64, the pre-trained model of Dhariwal & Nichol 2021
        40       0.05    50      1.003    ImageNet-64, their own
    """

    s_churn: NonNegative = 40.0
    s_tmin: NonNegative = 0.05
    s_tmax: Annotated[float, Range(0, math.inf, low_open=True)] = 50.0
    s_noise: Positive = 1.003

    evaluations_per_step: ClassVar[int | None] = 2
    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

    def __post_init__(self) -> None:
        if self.s_tmax < self.s_tmin:
            raise ConfigError(f"sampler.s_tmax={self.s_tmax:g} must not be below sampler.s_tmin={self.s_tmin:g}")

    @property
    def order(self) -> int | None:
        return 2 if self.s_churn == 0 else None

    @property
    def stochastic(self) -> bool:
        return self.s_churn > 0

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        levels = self.levels(schedule)
        start, end = levels.steps()
        rho = torch.exp(-start.log_snr / 2)
        gamma = min(self.s_churn / self.steps, math.sqrt(2) - 1)
        times = schedule.snap(schedule.time(start.log_snr - 2 * math.log1p(gamma)).clamp(max=1))
        churned = (rho >= self.s_tmin) & (rho <= self.s_tmax) & (times > start.t) & (gamma > 0)
        raised = schedule(torch.where(churned, times, start.t))
        scale = torch.where(churned, raised.alpha / start.alpha, 1.0)
        # sigma_hat^2 - (alpha_hat / alpha)^2 sigma^2 without the difference.
        fresh = raised.sigma * torch.sqrt(-torch.expm1(torch.where(churned, raised.log_snr - start.log_snr, 0.0)))
        rows = zip(raised.unbind(), end.unbind(), scale.tolist(), (self.s_noise * fresh).tolist(), strict=True)
        return [
            LinearStep(landing.t.item(), heun_stages(level, landing), scale=scaling, churn=churn)
            for level, landing, scaling, churn in rows
        ]
