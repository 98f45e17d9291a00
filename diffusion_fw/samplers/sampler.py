"""What a sampler is: a generator of steps from x_T to x_0, stateless but for its knobs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, Noise
from diffusion_fw.process.level import NoiseLevel, expand
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, PositiveInt, Runtime
from diffusion_fw.samplers.grid import Grid, Uniform


@dataclass(frozen=True)
class Step:
    """The state after a step: x at time t, the last prediction of x_0 that the step used, evaluations that it took."""

    t: float
    x: Tensor
    x0: Tensor
    evaluations: int = 1


@dataclass(frozen=True)
class Sampler(ABC):
    """Knobs only; the schedule comes with the denoiser, the times from the grid, the randomness from ``noise``."""

    steps: PositiveInt = 50
    grid: Runtime[Grid] = field(default_factory=Uniform)

    returns_to_noise: ClassVar[bool] = False
    """Whether it goes back to noise on its way, so that t rises there and there are more Steps than ``steps``."""
    needs_smooth_grid: ClassVar[bool] = False
    """Whether its order holds only on grids whose steps change little from one to the next."""

    uses_variance: ClassVar[bool] = False
    """Whether its noise has the variance of the model, which is a choice of its own (variance=...)."""

    @property
    def order(self) -> int | None:
        """Order of convergence in the step size, measured by the checks; None for a method without one."""
        return None

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise after x_T."""
        return False

    @property
    def evaluations_per_step(self) -> int | None:
        """Evaluations of the denoiser in all steps but a few at the ends; None where the sampler finds its own."""
        return 1

    def levels(self, schedule: Schedule) -> NoiseLevel:
        """The levels at the grid's steps + 1 times, from noise to data: all in one call."""
        return schedule(self.grid(self.steps, schedule))

    def check(self, schedule: Schedule) -> None:
        """Raise ConfigError where this sampler cannot run on this schedule, as ``trajectory`` would at its start."""
        self.levels(schedule)

    def require_steps(self, minimum: int, reason: str) -> None:
        """ConfigError where there are fewer than ``minimum`` steps."""
        if self.steps < minimum:
            raise ConfigError(f"sampler.steps={self.steps}: {reason} needs at least {minimum}; raise sampler.steps")

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

    def encode(self, denoiser: Denoiser, x: Tensor, *, cond: Any = None) -> Tensor:
        """x_T from x = x_0 (B, ...), which the sampler leads back to x_0; ConfigError where it has no such inverse."""
        raise ConfigError(
            f"sampler: {type(self).__name__} cannot encode x_0; choose sampler=ode or sampler=ddim with sampler.eta=0"
        )


def leave_data(denoiser: Denoiser, x: Tensor, level: NoiseLevel, cond: Any = None) -> Tensor:
    """x_t at the lowest noisy level from clean data x: the last step x_0 = (x_t - sigma eps(x_t)) / alpha reversed.

    One fixed-point iteration of x_t = alpha x_0 + sigma eps(x_t), begun at alpha x_0.
    """
    scaled = expand(level.alpha, x) * x
    return scaled + expand(level.sigma, x) * denoiser(scaled, level, cond).eps
