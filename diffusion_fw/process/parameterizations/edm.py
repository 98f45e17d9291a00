"""EDM's preconditioning: input and target of the network have variance 1 at every noise level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Parameterization
from diffusion_fw.process.sigma_data import SigmaData
from diffusion_fw.registry import register


@register("parameterization", "edm")
@dataclass(frozen=True)
class EDM(SigmaData, Parameterization):
    """F = (x_0 - c_skip x_t / alpha) / c_out, input c_in x_t / alpha, label log(s) / 4, at s = sigma / alpha.

    Karras et al. 2022, table 1 and equation 7, there for alpha = 1:
    c_skip = sigma_data^2 / (s^2 + sigma_data^2), c_out = s sigma_data / sqrt(s^2 + sigma_data^2),
    c_in = 1 / sqrt(s^2 + sigma_data^2). With n = sqrt(sigma^2 + alpha^2 sigma_data^2), the deviation of x_t, this is
    (a, b) = (sigma / (sigma_data n), -alpha sigma_data / n), D = -n / sigma_data and an input x_t / n: it has no
    singular level on any path, and on a variance-preserving one with sigma_data = 1 it is -v.
    """

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        deviation = self.deviation(level)
        a = level.sigma / (self.data_deviation * deviation)
        b = -level.alpha * self.data_deviation / deviation
        return a, b

    def input(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        # Clean data and pure noise have no finite log(sigma / alpha).
        return 1 / self.deviation(level), -level.log_snr.clamp(-40, 40) / 8

    def deviation(self, level: NoiseLevel) -> Tensor:
        """n, the standard deviation of x_t for data of standard deviation sigma_data."""
        return torch.hypot(level.sigma, level.alpha * self.data_deviation)
