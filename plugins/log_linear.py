"""A schedule as a plugin, whole. `python train.py schedule=log_linear schedule.high=12`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw import DiscreteSchedule, register


@register("schedule", "log_linear")
@dataclass(frozen=True)
class LogLinear(DiscreteSchedule):
    """log_snr falls linearly from high to low over the table (the fixed linear gamma of Kingma et al. 2021, VDM)."""

    high: float = 10.0
    low: float = -10.0

    def log_snrs(self) -> Tensor:
        return torch.linspace(self.high, self.low, self.num_steps, dtype=torch.float64)
