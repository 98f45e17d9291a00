"""A path whose log-SNR has a Laplace distribution at uniform times."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.schedule import LogSNRSchedule
from diffusion_fw.registry import ConfigError, Positive, register


@register("schedule", "laplace")
@dataclass(frozen=True)
class Laplace(LogSNRSchedule):
    """log_snr = mu - b sgn(1/2 - u) log(1 - 2 |u - 1/2|), alpha^2 + sigma^2 = 1. Hang et al. 2024, table 1.

    The distribution is cut off at log_snr_min, so that alpha(1) > 0: u = c t with log_snr(t = 1) = log_snr_min
    (1 - c = 5e-14 for the defaults). At t = 0 the data is clean.
    """

    mu: float = 0.0
    b: Positive = 0.5
    log_snr_min: float = -15.0

    def __post_init__(self) -> None:
        if self.log_snr_min >= self.mu:
            raise ConfigError(f"schedule.log_snr_min={self.log_snr_min:g} must be below schedule.mu={self.mu:g}")

    @property
    def cut(self) -> float:
        """1 - c, the probability of a log-SNR below log_snr_min."""
        return math.exp((self.log_snr_min - self.mu) / self.b) / 2

    def log_snr(self, t: Tensor) -> Tensor:
        u, rest = t * (1 - self.cut), (1 - t) + t * self.cut
        return self.mu + self.b * torch.where(u < rest, -(2 * u).log(), (2 * rest).log())

    def inverse(self, log_snr: Tensor) -> Tensor:
        tail = torch.exp(-(log_snr - self.mu).abs() / self.b) / 2
        return torch.where(log_snr > self.mu, tail, 1 - tail) / (1 - self.cut)
