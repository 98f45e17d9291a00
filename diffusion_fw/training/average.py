"""What an exponential moving average of the weights is: its decay at every step."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class Averages(ABC):
    """What a run keeps of its weights: any number of averages, the first of which samples are drawn with."""

    snapshot_every: int | None = None
    """After how many steps all of them are written aside, for averages of other lengths after training."""

    @property
    @abstractmethod
    def tracks(self) -> tuple[Average, ...]:
        """The averages; none: samples are drawn with the trained weights."""


class Average(Averages):
    """theta_ema <- d theta_ema + (1 - d) theta after each optimizer step, d = decay(step)."""

    @property
    def tracks(self) -> tuple[Average, ...]:
        return (self,)

    @abstractmethod
    def decay(self, step: int) -> float:
        """d in [0, 1] after optimizer step ``step`` = 1, 2, ..."""

    @property
    def length(self) -> dict[str, float]:
        """The knob that tells this average from others, by which a checkpoint's user asks for it."""
        return {}

    @torch.no_grad()
    def update(self, averaged: nn.Module, trained: nn.Module, step: int) -> None:
        """One step of the average, in place, in one fused call over all parameters; buffers are copied."""
        torch._foreach_lerp_(list(averaged.parameters()), list(trained.parameters()), 1 - self.decay(step))
        for target, source in zip(averaged.buffers(), trained.buffers(), strict=True):
            target.copy_(source)
