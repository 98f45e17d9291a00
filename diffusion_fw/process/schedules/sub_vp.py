"""Score-SDE's sub-VP path: less noise than VP for the same signal."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedules.vp import VP
from diffusion_fw.registry import register


@register("schedule", "sub_vp")
@dataclass(frozen=True)
class SubVP(VP):
    """alpha as vp, sigma = 1 - alpha^2; g^2 = beta (1 - alpha^4). Song et al. 2021, equations 28 and 29."""

    def __call__(self, t: Tensor) -> NoiseLevel:
        t = torch.as_tensor(t, dtype=torch.float64)
        log_alpha = self.log_alpha(t)
        sigma = -torch.expm1(2 * log_alpha)
        return NoiseLevel(t, log_alpha.exp(), sigma, 2 * (log_alpha - sigma.log()))

    def time(self, log_snr: Tensor) -> Tensor:
        # sigma / alpha = 1 / alpha - alpha = 2 sinh(-log alpha).
        ratio = torch.exp(-torch.as_tensor(log_snr, dtype=torch.float64) / 2)
        return self.time_of_log_alpha(-torch.asinh(ratio / 2))

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=torch.float64)
        f, beta = super().rates(t)
        return f, -beta * torch.expm1(4 * self.log_alpha(t))
