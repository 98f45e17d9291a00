"""How a sampler's error falls with its steps, and the order of convergence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.checking.truth import MIXTURE, flow, start
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.samplers.grid import Grid
from diffusion_fw.samplers.sampler import Sampler

ORDER_STEPS = (256, 512)
EVALUATIONS = (5, 10, 20, 50)

Build = Callable[[int, Grid], Sampler]
"""(steps, grid) -> the sampler under test."""


@dataclass(frozen=True)
class Interior(Grid):
    """Times smooth in log-SNR between two noisy levels.

    The last step, to clean data, is of first order for most methods, and would hide their order.
    """

    first: float
    last: float

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        return schedule.time(self.first + (self.last - self.first) * (u + 0.4 * u * (1 - u)))

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        return self.noisy_times(steps, schedule)


@dataclass(frozen=True)
class Alternating(Interior):
    """Steps in log-SNR that alternate between one length and twice that.

    A multistep formula that uses wrong step lengths loses its order here, though not where neighbouring steps are
    almost equal.
    """

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        lengths = 1 + torch.arange(steps, dtype=torch.float64) % 2
        u = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]) / lengths.sum()
        return schedule.time(self.first + (self.last - self.first) * u)


FROM_NOISE = Interior(-8.0, 5.0)
FROM_SIGNAL = Interior(-1.0, 5.0)
"""Starts where the flow is curved, which reveals a start of too low an order."""
FROM_SIGNAL_ALTERNATING = Alternating(-1.0, 5.0)


@dataclass(frozen=True)
class Point:
    """The root mean square distance to the exact flow after a number of steps and evaluations of the denoiser."""

    steps: int
    evaluations: int
    error: float


def measure(build: Build, schedule: Schedule, steps: int, grid: Interior) -> Point:
    """The error of a sampler at the end of the grid, on eight paths of the mixture's flow."""
    first, last = grid(1, schedule).tolist()
    x = start(schedule(torch.tensor(first, dtype=torch.float64)))
    evaluations = 0
    with torch.no_grad():
        for step in build(steps, grid).trajectory(MIXTURE.denoiser(schedule), x):
            x, evaluations = step.x, evaluations + step.evaluations
    error = (x - flow(schedule, first, last)).square().mean().sqrt().item()
    return Point(steps, evaluations, error)


def order(build: Build, schedule: Schedule, grid: Interior = FROM_SIGNAL) -> float:
    """The measured order of convergence, -d log(error) / d log(steps)."""
    coarse, fine = (measure(build, schedule, steps, grid) for steps in ORDER_STEPS)
    return -math.log(fine.error / coarse.error) / math.log(fine.steps / coarse.steps)


def most_within(build: Build, schedule: Schedule, evaluations: int) -> Point | None:
    """The point of the most steps within a number of evaluations; None if no number of steps is."""
    per_step = build(evaluations, FROM_NOISE).evaluations_per_step
    candidates = range(evaluations // (per_step or 1) + 1, 0, -1)
    for steps in candidates:
        try:
            point = measure(build, schedule, steps, FROM_NOISE)
        except ValueError:
            return None
        if point.evaluations <= evaluations:
            return point
    return None
