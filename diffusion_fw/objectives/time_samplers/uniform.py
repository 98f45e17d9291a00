"""Times uniform in [t_min, 1], on tables and continuous schedules alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.objectives.time_sampler import TimeSampler
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register


@register("time_sampler", "uniform")
@dataclass(frozen=True)
class UniformTime(TimeSampler):
    """t = t_min + (1 - t_min) u with u uniform on [0, 1]; on a table the row k = floor(u T) + 1.

    stratified draws u_i = (i + u) / n mod 1 in random order from one u: every batch covers all times evenly (Kingma et
    al. 2021, appendix I.1). Otherwise the u_i are independent (Song et al. 2021, equation 7).
    """

    stratified: bool = False

    def __call__(self, count: int, schedule: Schedule, generator: torch.Generator | None = None) -> Tensor:
        if self.stratified:
            order = torch.randperm(count, generator=generator)
            u = (order + torch.rand(1, dtype=torch.float64, generator=generator)) / count
        else:
            u = torch.rand(count, dtype=torch.float64, generator=generator)
        return schedule.fraction(u)
