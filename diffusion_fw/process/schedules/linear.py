"""DDPM's linear betas."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.schedule import BetaSchedule
from diffusion_fw.registry import Positive, register


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
