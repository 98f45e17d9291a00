"""What samplers see: a function from x_t and its level to both ends of the path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diffusion_fw.process.level import NoiseLevel, expand
from diffusion_fw.process.parameterization import Parameterization, Prediction
from diffusion_fw.process.schedule import Schedule

Noise = Callable[[Tensor], Tensor]
"""Draws standard normal noise like a tensor: seeded per sample in production, replayed in tests."""


class Denoiser(Protocol):
    """A network, a closed-form oracle or a wrapper around another denoiser."""

    @property
    def schedule(self) -> Schedule: ...

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        """x (B, ...), level = schedule(t) with t scalar or (B,), cond what the network was trained on."""
        ...


class NetworkDenoiser(nn.Module):
    """A network, network(c_in x_t, label, cond) -> F, read through a parameterization on a schedule.

    A network with twice the channels of x also predicts the variance: the second half is ``variance_logit``.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, parameterization: Parameterization) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization

    def output(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> tuple[Tensor, Tensor | None]:
        """The network's F at x_t, and the raw variance where the network has it."""
        c_in, label = self.parameterization.input(level)
        label = label.to(device=x.device, dtype=torch.float32, non_blocking=True).expand(x.shape[0])
        result = self.network(expand(c_in, x) * x, label, cond)
        if result.shape == x.shape:
            return result, None
        mean, variance = result.chunk(2, dim=1)
        return mean, variance

    def forward(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        output, variance_logit = self.output(x, level, cond)
        return Prediction(*self.parameterization.solve(level, x, output), variance_logit)


def prior(schedule: Schedule, shape: tuple[int, ...], noise: Noise = torch.randn_like) -> Tensor:
    """x at t = 1 for data of scale 1: sigma(1) times standard normal noise of the given shape."""
    x = noise(torch.empty(shape))
    return expand(schedule(torch.ones((), dtype=torch.float64)).sigma, x) * x
