"""EDM's spacing in sigma."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, Positive, register
from diffusion_fw.samplers.grid import Grid


@register("grid", "karras")
@dataclass(frozen=True)
class Karras(Grid):
    """s_j = (s_0^(1/rho) + j / (N - 1) (s_{N-1}^(1/rho) - s_0^(1/rho)))^rho, s = sigma / alpha, j = 0 .. N - 1.

    Karras et al. 2022, equation 5. s_0 = sigma_max and s_{N-1} = sigma_min, or the schedule's own extremes where these
    are narrower; the first time is always 1, at which x_T is drawn. Between rows of a table log-SNR is interpolated.
    """

    rho: Positive = 7.0
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0

    on_rows: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.sigma_max <= self.sigma_min:
            raise ConfigError(f"grid.sigma_max={self.sigma_max:g} must be above grid.sigma_min={self.sigma_min:g}")

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        log_sigmas = torch.tensor([self.sigma_max, self.sigma_min], dtype=torch.float64).log()
        ends = schedule(schedule.time(-2 * log_sigmas).clamp(min=schedule.t_min)).log_snr
        first, last = torch.exp(-ends / 2 / self.rho).tolist()
        log_ratio = self.rho * torch.linspace(first, last, steps, dtype=torch.float64).log()
        times = schedule.time(-2 * log_ratio)
        times[0] = 1
        return times
