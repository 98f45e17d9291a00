"""The base of every sampler: a generator of the steps from x_T to x_0."""

from __future__ import annotations

import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, Noise, seeded
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, Runtime, Size
from diffusion_fw.samplers.grid import Grid, Uniform

OUTSIDE = 2
"""A warning is given for samples farther than this many half-widths from the centre of the data's bounds."""

logger = logging.getLogger(__name__)


@functools.cache
def warn_outside(low: float, high: float) -> None:
    """One warning a job, which clears the cache when it begins, whatever the number of samples."""
    logger.warning(
        "some samples lie more than twice outside the bounds of the data, [%g, %g]; add clip to guidance, as in "
        "guidance=[classifier_free,clip], lower its scale, or take another grid or sampler",
        low,
        high,
    )


@dataclass(frozen=True)
class Step:
    """The state after a step: x at time t, the last prediction of x_0, the evaluations of the denoiser in the step."""

    t: float
    x: Tensor
    x0: Tensor
    evaluations: int = 1


def _with_noise_of_denoiser(trajectory: Callable[..., Iterator[Step]]) -> Callable[..., Iterator[Step]]:
    """The same trajectory, in which a denoiser with randomness of its own draws it from ``noise`` too."""

    @functools.wraps(trajectory)
    def run(
        self: Sampler, denoiser: Denoiser, x: Tensor, *, cond: Any = None, noise: Noise = torch.randn_like
    ) -> Iterator[Step]:
        if not isinstance(getattr(denoiser, "schedule", None), Schedule):
            raise TypeError(
                f"a sampler takes a denoiser, which has a schedule, and not a {type(denoiser).__name__}; "
                "dfw.wrap(model, schedule, parameterization) makes one of a network, dfw.wrap(f, schedule) of "
                "f(x, sigma) -> x_0"
            )
        return trajectory(self, seeded(denoiser, noise), x, cond=cond, noise=noise)

    return run


@dataclass(frozen=True)
class Sampler(ABC):
    """Parameters and no state: schedule from the denoiser, times from the grid, randomness from ``noise``.

    A denoiser with randomness of its own, as guidance=imputation, draws it from ``noise`` in every ``trajectory``.
    """

    steps: Size = 50
    grid: Runtime[Grid] = field(default_factory=Uniform)

    returns_to_noise: ClassVar[bool] = False
    """Whether it adds noise on its way, so that t rises there and there are more Steps than ``steps``."""
    needs_smooth_grid: ClassVar[bool] = False
    """Whether its order holds only on grids whose consecutive steps have almost the same length."""
    repeats_times: ClassVar[bool] = False
    """Whether a step of length 0 leaves x_t as it is, so that a grid may visit a time twice."""

    uses_variance: ClassVar[bool] = False
    """Whether its noise has the variance of the model (variance=...)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "trajectory" in vars(cls):
            cls.trajectory = _with_noise_of_denoiser(cls.trajectory)  # type: ignore[method-assign]

    @property
    def order(self) -> int | None:
        """The order of convergence in the step size, None without one; where the user chooses it, a parameter."""
        return None

    @property
    def reached_order(self) -> int | None:
        """The declared order, which the checks measure: ``order``, unless other parameters limit it."""
        return self.order

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise after x_T."""
        return False

    @property
    def evaluations_per_step(self) -> int | None:
        """Evaluations of the denoiser in all steps but a few at the ends; None for an adaptive sampler."""
        return 1

    @property
    def evaluations_saved(self) -> int:
        """Evaluations by which a whole sampling takes fewer than its steps say."""
        return 0

    def levels(self, schedule: Schedule) -> NoiseLevel:
        """The levels at the grid's steps + 1 times, from noise to data, in one call of the schedule."""
        if self.grid.repeats and not self.repeats_times:
            raise ConfigError(
                f"the grid may visit a time twice, which {type(self).__name__} has no step for; choose sampler=ddim or "
                "sampler=ddpm, or set grid.repeat=false"
            )
        return schedule(self.grid(self.steps, schedule))

    def step_count(self, schedule: Schedule) -> int:
        """The number of Steps of a ``trajectory``: ``steps``, or more where the sampler returns to noise."""
        return self.steps

    def check(self, schedule: Schedule) -> None:
        """Raise the ConfigError that ``trajectory`` would raise on this schedule, if any."""
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
        bounds: tuple[float, float] | None = getattr(denoiser, "bounds", None)
        if bounds is not None:
            center, radius = sum(bounds) / 2, (bounds[1] - bounds[0]) / 2
            if bool((x - center).abs().max() > OUTSIDE * radius):
                warn_outside(*bounds)
        return x

    def encode(self, denoiser: Denoiser, x: Tensor, *, cond: Any = None) -> Tensor:
        """The x_T from which the sampler returns to x = x_0 (B, ...); ConfigError for a sampler that cannot encode."""
        raise ConfigError(
            f"sampler: {type(self).__name__} cannot encode x_0; choose sampler=ode or sampler=ddim with sampler.eta=0"
        )
