"""EDM's path: time is noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, Positive, register


@register("schedule", "edm")
@dataclass(frozen=True)
class EDM(Schedule):
    """alpha = 1, sigma(t) = sigma_max t; noisy times begin at sigma_min / sigma_max.

    Karras et al. 2022, table 1, whose sigma(t) = t on [0, sigma_max] is here on [0, 1].
    """

    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0

    def __post_init__(self) -> None:
        if self.sigma_max <= self.sigma_min:
            raise ConfigError(
                f"schedule.sigma_max={self.sigma_max:g} must be above schedule.sigma_min={self.sigma_min:g}"
            )

    @property
    def t_min(self) -> float:
        return self.sigma_min / self.sigma_max

    def __call__(self, t: Tensor) -> NoiseLevel:
        t = torch.as_tensor(t, dtype=torch.float64)
        sigma = self.sigma_max * t
        return NoiseLevel(t, torch.ones_like(t), sigma, -2 * sigma.log())

    def time(self, log_snr: Tensor) -> Tensor:
        sigma = torch.exp(-torch.as_tensor(log_snr, dtype=torch.float64) / 2)
        return (sigma / self.sigma_max).clamp(max=1)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=torch.float64)
        return torch.zeros_like(t), 2 * self.sigma_max**2 * t
