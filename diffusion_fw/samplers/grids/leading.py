"""DDIM's even spacing, which includes the smallest noise but not the largest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.grid import Grid


@register("grid", "leading")
@dataclass(frozen=True)
class Leading(Grid):
    """DDPM's indices floor(j T / N), j = N - 1 .. 0, on a table of T rows; T = 1 / t_min on a continuous schedule.

    Song et al. 2020 (DDIM), appendix D.2, "linear"; it starts one stride below pure noise.
    """

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        rows = round(1 / schedule.t_min)
        return (torch.arange(steps - 1, -1, -1) * rows // steps + 1).double() / rows
