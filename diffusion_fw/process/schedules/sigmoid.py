"""The sigmoid table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.schedule import BetaSchedule
from diffusion_fw.registry import ConfigError, OpenFraction, Positive, register


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
