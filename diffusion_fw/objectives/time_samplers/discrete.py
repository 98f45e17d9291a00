"""Every row of a table with the same probability."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.objectives.time_sampler import TimeSampler
from diffusion_fw.process.schedule import DiscreteSchedule, Schedule
from diffusion_fw.registry import ConfigError, register


@register("time_sampler", "discrete")
@dataclass(frozen=True)
class Discrete(TimeSampler):
    """t = k / T with k uniform on 1 .. T. Ho et al. 2020, algorithm 1."""

    def __call__(self, count: int, schedule: Schedule, generator: torch.Generator | None = None) -> Tensor:
        if not isinstance(schedule, DiscreteSchedule):
            raise ConfigError(
                "time_sampler=discrete draws rows of a table, but this schedule is continuous; "
                "choose time_sampler=uniform, or a table such as schedule=cosine"
            )
        rows = torch.randint(1, schedule.num_steps + 1, (count,), generator=generator)
        return rows.double() / schedule.num_steps
