"""Times written down."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, Fraction, register
from diffusion_fw.samplers.grid import Grid


@register("grid", "explicit")
@dataclass(frozen=True)
class Explicit(Grid):
    """The given times in [0, 1], decreasing; a 0 at the end may be left out. On a table each is the nearest row.

    Raises ConfigError where they don't decrease, lie outside [0, 1], or are not sampler.steps in number (0 excluded).
    """

    times: tuple[Fraction, ...]

    def __post_init__(self) -> None:
        if not any(self.times) or any(s >= t for t, s in itertools.pairwise(self.times)):
            raise ConfigError(f"grid.times={list(self.times)}: must decrease from at most 1, and begin above 0")

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        return torch.tensor([t for t in self.times if t > 0], dtype=torch.float64)
