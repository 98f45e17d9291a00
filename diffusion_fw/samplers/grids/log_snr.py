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

    Lu et al. 2022 (DPM-Solver), section 3.4 and appendix E. low and high are the schedule's own at t = 1 and t_min,
    within [log_snr_min, log_snr_max]; the first time is always 1, at which x_T is drawn. Between the rows of a table
    log-SNR is interpolated.
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
        ends = schedule(torch.tensor([1, schedule.t_min], dtype=torch.float64)).log_snr
        low, high = ends.clamp(self.log_snr_min, self.log_snr_max).tolist()
        times = schedule.time(torch.linspace(low, high, steps, dtype=torch.float64))
        times[0] = 1
        return times
