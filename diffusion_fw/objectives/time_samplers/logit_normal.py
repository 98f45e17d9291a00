"""SD3's times: a normal distribution of logit t."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.objectives.time_sampler import InverseTimeSampler, noisy
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import Positive, register


@register("time_sampler", "logit_normal")
@dataclass(frozen=True)
class LogitNormal(InverseTimeSampler):
    """log(t / (1 - t)) ~ N(mean, std^2), as the nearest noisy time. Esser et al. 2024 (SD3), equation 19."""

    mean: float = 0.0
    std: Positive = 1.0

    def times(self, u: Tensor, schedule: Schedule) -> Tensor:
        return noisy(torch.sigmoid(self.mean + self.std * torch.special.ndtri(u)), schedule)
