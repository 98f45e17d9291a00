"""Even spacing that includes both the largest and the smallest noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.grid import Grid


@register("grid", "linspace")
@dataclass(frozen=True)
class Linspace(Grid):
    """N even times from 1 to t_min, both included, then 0: on a table DDPM's indices T - 1 .. 0.

    Nichol & Dhariwal 2021, section 4 (the spacing of its respaced sampling); Lin et al. 2024, table 2.
    """

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        return torch.linspace(1, schedule.t_min, steps, dtype=torch.float64)
