"""Even steps in log-SNR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, register
from diffusion_fw.samplers.grid import Grid


@register("grid", "log_snr")
@dataclass(frozen=True)
class LogSNR(Grid):
    """log_snr_j = low + j / (N - 1) (high - low), j = 0 .. N - 1.

    Lu et al. 2022 (DPM-Solver), section 3.4 and appendix E. low and high are log_snr_min and log_snr_max, or the
    schedule's own extremes where these are narrower; the first time is always 1, at which x_T is drawn. Between rows of
    a table log-SNR is interpolated.
    """

    log_snr_min: float = -14.0
    log_snr_max: float = 14.0

    on_rows: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.log_snr_max <= self.log_snr_min:
            raise ConfigError(
                f"grid.log_snr_max={self.log_snr_max:g} must be above grid.log_snr_min={self.log_snr_min:g}"
            )

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        ends = torch.tensor([self.log_snr_min, self.log_snr_max], dtype=torch.float64)
        low, high = schedule(schedule.time(ends).clamp(min=schedule.t_min)).log_snr.tolist()
        times = schedule.time(torch.linspace(low, high, steps, dtype=torch.float64))
        times[0] = 1
        return times
