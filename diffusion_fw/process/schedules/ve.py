"""Score-SDE's variance-exploding path in continuous time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.geometric import GeometricNoise
from diffusion_fw.process.level import NoiseLevel, variance_exploding
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register


@register("schedule", "ve")
@dataclass(frozen=True)
class VE(GeometricNoise, Schedule):
    """alpha = 1, sigma(t) = sigma_min (sigma_max / sigma_min)^t for t > 0, and clean data at t = 0.

    Song et al. 2021, equation 31 and appendix C: the jump from sigma_min to 0 at t = 0 is the paper's own.
    sigma_max=auto is the largest distance between two training examples.
    """

    def __call__(self, t: Tensor) -> NoiseLevel:
        t = torch.as_tensor(t, dtype=torch.float64)
        smallest, largest = self.log_sigmas
        log_snr = torch.where(t > 0, -2 * (smallest + t * (largest - smallest)), torch.inf)
        return NoiseLevel(t, *variance_exploding(log_snr), log_snr)

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse; t_min for less noise than sigma_min, but more than none."""
        target = torch.as_tensor(log_snr, dtype=torch.float64)
        smallest, largest = self.log_sigmas
        t = (-target / 2 - smallest) / (largest - smallest)
        t = torch.where(t > 0, t, self.t_min).clamp(max=1)
        return torch.where(torch.isposinf(target), 0.0, t)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=torch.float64)
        smallest, largest = self.log_sigmas
        variance = torch.exp(2 * (smallest + t * (largest - smallest)))
        return torch.zeros_like(t), 2 * (largest - smallest) * variance
