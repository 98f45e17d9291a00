"""Score-SDE's variance-preserving path in continuous time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, Positive, register


@register("schedule", "vp")
@dataclass(frozen=True)
class VP(Schedule):
    """log alpha = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2, sigma^2 = 1 - alpha^2.

    Song et al. 2021, equation 33: the limit of DDPM's linear betas, beta(t) = beta_min + t (beta_max - beta_min).
    """

    beta_min: Positive = 0.1
    beta_max: Positive = 20.0

    def __post_init__(self) -> None:
        if self.beta_max <= self.beta_min:
            raise ConfigError(f"schedule.beta_max={self.beta_max:g} must be above schedule.beta_min={self.beta_min:g}")

    def log_alpha(self, t: Tensor) -> Tensor:
        """log alpha at float64 times."""
        return -t.square() * (self.beta_max - self.beta_min) / 4 - t * self.beta_min / 2

    def time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        """The inverse of ``log_alpha``, clamped to at most 1."""
        slope = self.beta_max - self.beta_min
        t = -4 * log_alpha / (self.beta_min + (self.beta_min**2 - 4 * slope * log_alpha).sqrt())
        # The limit at alpha = 0 is inf / inf.
        return t.nan_to_num(torch.inf).clamp(max=1)

    def __call__(self, t: Tensor) -> NoiseLevel:
        t = torch.as_tensor(t, dtype=torch.float64)
        log_alpha = self.log_alpha(t)
        variance = -torch.expm1(2 * log_alpha)
        return NoiseLevel(t, log_alpha.exp(), variance.sqrt(), 2 * log_alpha - variance.log())

    def time(self, log_snr: Tensor) -> Tensor:
        return self.time_of_log_alpha(logsigmoid(torch.as_tensor(log_snr, dtype=torch.float64)) / 2)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        beta = self.beta_min + torch.as_tensor(t, dtype=torch.float64) * (self.beta_max - self.beta_min)
        return -beta / 2, beta
