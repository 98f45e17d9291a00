"""What samplers see: a function from x_t and its level to both ends of the path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diffusion_fw.process.level import NoiseLevel, combine, expand, scale
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


MAX_KNOWN_LEVELS = 8192


class NetworkDenoiser(nn.Module):
    """A network, network(c_in x_t, label, cond) -> F, read through a parameterization on a schedule.

    A network with twice the channels of x also predicts the variance: the second half is ``variance_logit``.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, parameterization: Parameterization) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization
        self._known: dict[float, tuple[float, ...]] = {}

    def output(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> tuple[Tensor, Tensor | None]:
        """The network's F at x_t, and the raw variance where the network has it."""
        c_in, label, *_ = self._coefficients(level, x)
        result = self.network(scale(c_in, x), _labels(label, x), cond)
        if result.shape == x.shape:
            return result, None
        mean, variance = result.chunk(2, dim=1)
        return mean, variance

    def forward(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        return self.prediction(x, level, *self.output(x, level, cond))

    def prediction(
        self, x: Tensor, level: NoiseLevel, output: Tensor, variance_logit: Tensor | None = None
    ) -> Prediction:
        """What an ``output`` of the network at x_t says of both ends of the path."""
        _, _, p, q, r, s = self._coefficients(level, x)
        return Prediction(combine(p, x, q, output), combine(r, x, s, output), variance_logit)

    def _coefficients(self, level: NoiseLevel, x: Tensor) -> tuple[Any, ...]:
        """c_in, label and the solution's p, q, r, s; for a scalar level numbers, computed once for each t."""
        if level.t.ndim:
            c_in, label = self.parameterization.input(level)
            inverse = (expand(value, x) for value in self.parameterization.inverse(level))
            return (expand(c_in, x), label, *inverse)
        t = float(level.t)
        if t not in self._known:
            if len(self._known) >= MAX_KNOWN_LEVELS:
                self._known.clear()
            values = (*self.parameterization.input(level), *self.parameterization.inverse(level))
            self._known[t] = tuple(float(value) for value in values)
        return self._known[t]


def _labels(label: Tensor | float, x: Tensor) -> Tensor:
    """The time label of each example, float32."""
    if isinstance(label, Tensor):
        return label.to(device=x.device, dtype=torch.float32, non_blocking=True)
    return torch.full((x.shape[0],), label, dtype=torch.float32, device=x.device)


def prior(schedule: Schedule, shape: tuple[int, ...], noise: Noise = torch.randn_like) -> Tensor:
    """x at t = 1 for data of scale 1: sigma(1) times standard normal noise of the given shape."""
    x = noise(torch.empty(shape))
    return expand(schedule(torch.ones((), dtype=torch.float64)).sigma, x) * x
