"""What a sampler is: a generator of steps from x_T to x_0, stateless but for its knobs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, Noise
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import PositiveInt, Runtime
from diffusion_fw.samplers.grid import Grid
from diffusion_fw.samplers.grids.uniform import Uniform


@dataclass(frozen=True)
class Step:
    """The state after a step: x at time t, and the prediction of x_0 that the step used."""

    t: float
    x: Tensor
    x0: Tensor


@dataclass(frozen=True)
class Sampler(ABC):
    """Knobs only; the schedule comes with the denoiser, the times from the grid, the randomness from ``noise``."""

    steps: PositiveInt = 50
    grid: Runtime[Grid] = field(default_factory=Uniform)

    order: ClassVar[int | None] = None
    """Order of convergence in the step size, measured by the checks; None for a method without one."""
    stochastic: ClassVar[bool] = False
    """Whether it draws noise after x_T."""
    evaluations_per_step: ClassVar[int] = 1

    def levels(self, schedule: Schedule) -> NoiseLevel:
        """The levels at the grid's steps + 1 times, from noise to data: all in one call."""
        return schedule(self.grid(self.steps, schedule))

    @abstractmethod
    def trajectory(
        self, denoiser: Denoiser, x: Tensor, *, cond: Any = None, noise: Noise = torch.randn_like
    ) -> Iterator[Step]:
        """The steps from x = x_T (B, ...) to x_0; gradients are recorded if the caller records them."""

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, x: Tensor, *, cond: Any = None, noise: Noise = torch.randn_like) -> Tensor:
        """x_0 from x = x_T, without gradients (iterate over ``trajectory`` to differentiate through the steps)."""
        for step in self.trajectory(denoiser, x, cond=cond, noise=noise):
            x = step.x
        return x
