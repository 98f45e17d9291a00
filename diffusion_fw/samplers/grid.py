"""What a grid is: the times at which a sampler stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError


@dataclass(frozen=True)
class Grid(ABC):
    """Turns a number of steps and a schedule into steps + 1 decreasing float64 times, the last one 0."""

    on_rows: ClassVar[bool] = True
    """Whether the times are to be rows of a table; if not, its log-SNR is interpolated between them."""

    @abstractmethod
    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        """The ``steps`` times at which the denoiser is asked, decreasing, in (0, 1]."""

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """The times, snapped to the schedule's own if the grid is ``on_rows``.

        Raises ConfigError where they are not ``steps`` in number or don't decrease strictly from at most 1.
        """
        times = self.noisy_times(steps, schedule)
        if len(times) != steps:
            raise ConfigError(
                f"grid gives {len(times)} times, but sampler.steps={steps}; set sampler.steps={len(times)}, "
                "or change grid"
            )
        if self.on_rows:
            times = schedule.snap(times)
        times = torch.cat([times, times.new_zeros(1)])
        if not bool((times.diff() < 0).all()) or times[0] > 1:
            raise ConfigError(
                f"sampler.steps={steps}: the grid gives times that do not decrease on this schedule "
                f"(its smallest noisy time is {schedule.t_min:g}); lower sampler.steps or change grid"
            )
        return times
