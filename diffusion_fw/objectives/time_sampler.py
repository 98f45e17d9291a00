"""What a time sampler is: how training draws the times of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffusion_fw.process.schedule import Schedule


class TimeSampler(ABC):
    """Draws times; its randomness comes with the generator."""

    @abstractmethod
    def __call__(self, count: int, schedule: Schedule, generator: torch.Generator | None = None) -> Tensor:
        """(count,) float64 times in [schedule.t_min, 1] for the global batch; ConfigError where it can't."""
