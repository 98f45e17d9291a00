"""What a grid is: the times at which a sampler stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError


@dataclass(frozen=True)
class Grid(ABC):
    """Turns a number of steps and a schedule into steps + 1 decreasing float64 times, the last one 0."""

    @abstractmethod
    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        """The ``steps`` times at which the denoiser is asked, decreasing, in (0, 1]."""

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """The times, snapped to the schedule's own; ConfigError where they don't decrease strictly."""
        times = schedule.snap(self.noisy_times(steps, schedule))
        times = torch.cat([times, times.new_zeros(1)])
        if not bool((times.diff() < 0).all()):
            raise ConfigError(
                f"sampler.steps={steps}: the grid gives times that do not decrease on this schedule "
                f"(its smallest noisy time is {schedule.t_min:g}); lower sampler.steps or change grid"
            )
        return times
