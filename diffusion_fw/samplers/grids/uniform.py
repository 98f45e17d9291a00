"""Even steps in t from 1 to 0."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.grid import Grid


@register("grid", "uniform")
@register("grid", "trailing")
@dataclass(frozen=True)
class Uniform(Grid):
    """t_j = 1 - j / N, j = 0 .. N - 1, snapped to the rows of a table.

    On a table this is the "trailing" spacing (Lin et al. 2024, table 2); N = num_steps visits every row, as DDPM does.
    """

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        return 1 - torch.arange(steps, dtype=torch.float64) / steps
