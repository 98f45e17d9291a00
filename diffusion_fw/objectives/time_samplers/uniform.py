"""Times uniform in [t_min, 1], on tables and continuous schedules alike."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from diffusion_fw.objectives.time_sampler import InverseTimeSampler
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register


@register("time_sampler", "uniform")
@dataclass(frozen=True)
class UniformTime(InverseTimeSampler):
    """t = t_min + (1 - t_min) u with u uniform on [0, 1); on a table the row k = floor(u T) + 1.

    Song et al. 2021, equation 7. With stratified every batch covers all times evenly (Kingma et al. 2021).
    """

    def times(self, u: Tensor, schedule: Schedule) -> Tensor:
        return schedule.fraction(u)
