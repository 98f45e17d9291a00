"""What an exponential moving average of the weights is: its decay at every step."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class Average(ABC):
    """theta_ema <- d theta_ema + (1 - d) theta after each optimizer step, d = decay(step)."""

    @abstractmethod
    def decay(self, step: int) -> float:
        """d in [0, 1] after optimizer step ``step`` = 1, 2, ..."""

    @torch.no_grad()
    def update(self, averaged: nn.Module, trained: nn.Module, step: int) -> None:
        """One step of the average, in place, in one fused call over all parameters; buffers are copied."""
        torch._foreach_lerp_(list(averaged.parameters()), list(trained.parameters()), 1 - self.decay(step))
        for target, source in zip(averaged.buffers(), trained.buffers(), strict=True):
            target.copy_(source)
