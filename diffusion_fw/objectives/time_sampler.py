"""What a time sampler is: how training draws the times of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.process.schedule import Schedule


class TimeSampler(ABC):
    """Draws times; its randomness comes with the generator.

    One that learns where to draw keeps tensors, which ``update`` changes after each step and checkpoints hold; for all
    others these methods do nothing.
    """

    @abstractmethod
    def __call__(self, count: int, schedule: Schedule, generator: torch.Generator | None = None) -> Tensor:
        """(count,) float64 times in [schedule.t_min, 1] for the global batch.

        Raises ConfigError where the schedule has none of the kind.
        """

    def weight(self, t: Tensor) -> Tensor:
        """What the loss at times t just drawn is multiplied by, float64, of t's shape: 1 / (density of t) where asked.

        It keeps the expected loss that of uniform times where the drawing is meant to lower its variance alone. To be
        called before ``update``.
        """
        return torch.ones_like(t)

    def update(self, t: Tensor, loss: Tensor) -> None:  # noqa: B027 - most learn nothing
        """Learn from the losses, without their weights, of all of the step's times: those of every process."""

    def state_dict(self) -> dict[str, Any]:
        """What ``update`` has learned."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most learn nothing
        """Continue from a ``state_dict``."""


@dataclass(frozen=True)
class InverseTimeSampler(TimeSampler):
    """t = Q(u) with Q the inverse of the distribution function of t and u uniform on [0, 1).

    stratified draws u_i = (i + u) / n in random order from one u, so that every global batch covers the distribution
    evenly (Kingma et al. 2021, appendix I.1). Otherwise the u_i are independent.
    """

    stratified: bool = False

    @abstractmethod
    def times(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Q(u), float64, for u of any shape."""

    def __call__(self, count: int, schedule: Schedule, generator: torch.Generator | None = None) -> Tensor:
        if self.stratified:
            order = torch.randperm(count, generator=generator)
            u = (order + torch.rand(1, dtype=torch.float64, generator=generator)) / count
        else:
            u = torch.rand(count, dtype=torch.float64, generator=generator)
        return self.times(u, schedule)


def noisy(t: Tensor, schedule: Schedule) -> Tensor:
    """The nearest times at which the schedule is noisy: rows 1 .. T of a table, [t_min, 1] of a continuous one."""
    return schedule.snap(t).clamp(schedule.t_min, 1)
