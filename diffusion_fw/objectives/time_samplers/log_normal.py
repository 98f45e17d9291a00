"""EDM's noise levels: a normal distribution of log sigma."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.objectives.time_sampler import InverseTimeSampler, noisy
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import Positive, register


@register("time_sampler", "log_normal")
@dataclass(frozen=True)
class LogNormal(InverseTimeSampler):
    """log(sigma / alpha) ~ N(mean, std^2), as the nearest noisy time of any schedule. Karras et al. 2022, table 1."""

    mean: float = -1.2
    std: Positive = 1.2

    def times(self, u: Tensor, schedule: Schedule) -> Tensor:
        log_ratio = self.mean + self.std * torch.special.ndtri(u)
        return noisy(schedule.time(-2 * log_ratio), schedule)
