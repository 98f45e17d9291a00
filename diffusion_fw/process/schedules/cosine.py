"""Improved DDPM's cosine table, with clipped betas."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.schedule import BetaSchedule
from diffusion_fw.registry import NonNegative, OpenFraction, register


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
