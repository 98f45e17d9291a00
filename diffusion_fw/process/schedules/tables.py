"""Discrete schedules: tables of T noise levels, by betas or by sigmas.

A variance-preserving table comes from betas, for k = 1..T:
alpha_k^2 = prod_{j <= k} (1 - beta_j) and sigma_k^2 = 1 - alpha_k^2.

    linear         beta_k linear in k
    scaled_linear  sqrt(beta_k) linear in k
    cosine         alpha_k^2 proportional to cos^2(pi/2 (k/T + s) / (1 + s)), beta_k clipped
    sigmoid        alpha_k^2 a sigmoid of k, beta_k clipped
    ncsn           alpha = 1, sigma_k geometric (variance exploding)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_fw.process.geometric import GeometricNoise
from diffusion_fw.process.level import variance_exploding
from diffusion_fw.process.schedule import BetaSchedule, DiscreteSchedule, TableLength
from diffusion_fw.registry import ConfigError, NonNegative, OpenFraction, Positive, register


@register("schedule", "linear")
@dataclass(frozen=True)
class Linear(BetaSchedule):
    """beta_k rises linearly from beta_start to beta_end, both times 1000 / num_steps.

    Ho et al. 2020, section 4, for num_steps = 1000; the factor keeps the path the same for any number of steps
    (Nichol & Dhariwal 2021, whose T = 4000 it reproduces).
    """

    beta_start: Positive = 1e-4
    beta_end: Positive = 0.02

    def betas(self) -> Tensor:
        scale = 1000 / self.num_steps
        return torch.linspace(self.beta_start * scale, self.beta_end * scale, self.num_steps, dtype=torch.float64)


@register("schedule", "scaled_linear")
@dataclass(frozen=True)
class ScaledLinear(BetaSchedule):
    """sqrt(beta_k) rises linearly from sqrt(beta_start) to sqrt(beta_end), the betas times 1000 / num_steps.

    Rombach et al. 2022, the setting of Stable Diffusion: note that alpha_T^2 = 0.0047, so x_T is not pure noise.
    """

    beta_start: Positive = 0.00085
    beta_end: Positive = 0.012

    def betas(self) -> Tensor:
        ends = self.beta_start**0.5, self.beta_end**0.5
        return torch.linspace(*ends, self.num_steps, dtype=torch.float64).square() * (1000 / self.num_steps)


@register("schedule", "cosine")
@dataclass(frozen=True)
class Cosine(BetaSchedule):
    """beta_k = min(1 - f(k / T) / f((k - 1) / T), max_beta) with f(t) = cos((t + s) / (1 + s) * pi / 2)^2.

    Nichol & Dhariwal 2021, equation 17. The clipping makes it another schedule than `cosine_continuous`.
    """

    s: NonNegative = 0.008
    max_beta: OpenFraction = 0.999

    def betas(self) -> Tensor:
        t = torch.arange(self.num_steps + 1, dtype=torch.float64) / self.num_steps
        f = torch.cos((t + self.s) / (1 + self.s) * (math.pi / 2)).square()
        return (1 - f[1:] / f[:-1]).clamp(max=self.max_beta)


@register("schedule", "sigmoid")
@dataclass(frozen=True)
class Sigmoid(BetaSchedule):
    """alpha_k^2 = (S(end) - S(x_k)) / (S(end) - S(start)), x_k = start + (end - start) k / T, S(x) = sigmoid(x / tau).

    Jabri et al. 2022, algorithm 1. As in cosine, beta_k is at most max_beta, since alpha would be 0 at the last row.
    """

    start: float = -3.0
    end: float = 3.0
    tau: Positive = 1.0
    max_beta: OpenFraction = 0.999

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise ConfigError(f"schedule.end={self.end:g} must be above schedule.start={self.start:g}")

    def betas(self) -> Tensor:
        x = torch.linspace(self.start, self.end, self.num_steps + 1, dtype=torch.float64) / self.tau
        f = torch.sigmoid(x[-1]) - torch.sigmoid(x)
        return (1 - f[1:] / f[:-1]).clamp(max=self.max_beta)


@register("schedule", "ncsn")
@dataclass(frozen=True)
class NCSN(GeometricNoise, DiscreteSchedule):
    """alpha = 1, sigma_k = sigma_min (sigma_max / sigma_min)^((k - 1) / (L - 1)), k = 1 .. L = num_steps.

    Song & Ermon 2019, section 4.2, who count from the largest, with L = 10 from 1 to 0.01; the defaults are those of
    Song & Ermon 2020 (NCSNv2) for CIFAR-10. sigma_max=auto is the largest distance between two training examples.
    """

    num_steps: TableLength = 232

    path: ClassVar[Callable[[Tensor], tuple[Tensor, Tensor]]] = staticmethod(variance_exploding)

    def log_snrs(self) -> Tensor:
        smallest, largest = self.log_sigmas
        return -2 * torch.linspace(largest, smallest, self.num_steps, dtype=torch.float64).flip(0)
