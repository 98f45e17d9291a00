"""Latent diffusion's betas, linear in their square root."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.schedule import BetaSchedule
from diffusion_fw.registry import Positive, register


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
