"""Samplers whose steps are linear in the state and the predictions, and the one loop that runs them all."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, Noise
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.sampler import Sampler, Step


class Stage(NamedTuple):
    """x <- c_x x_start + sum_j weights_j F_j + c_x0 x0: x_start begins the step, F_0 is the newest prediction.

    F_0 is evaluated at ``level`` and the current x; where level is None, nothing is evaluated. x0 is the newest
    prediction of x_0, for samplers whose F is eps.
    """

    level: NoiseLevel | None
    c_x: float
    weights: tuple[float, ...]
    c_x0: float = 0.0


class LinearStep(NamedTuple):
    """The stages that lead to time t, with x <- scale x + churn z before them and x <- x + deviation z after them."""

    t: float
    stages: tuple[Stage, ...]
    deviation: float = 0.0
    scale: float = 1.0
    churn: float = 0.0

    def numbers(self) -> Iterator[float]:
        """Every coefficient of the step."""
        yield from (self.deviation, self.scale, self.churn)
        for stage in self.stages:
            yield from (stage.c_x, stage.c_x0, *stage.weights)


def linear_steps(levels: NoiseLevel, stages: Sequence[tuple[Stage, ...]]) -> list[LinearStep]:
    """The steps between the levels (N + 1,), from the stages of each."""
    return [LinearStep(t, stage) for t, stage in zip(levels.t[1:].tolist(), stages, strict=True)]


def combination(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """sum_j weights_j values_j over the weights that are not 0; at least one is not."""
    first, *rest = ((weight, value) for weight, value in zip(weights, values, strict=False) if weight != 0)
    result = first[0] * first[1]
    for weight, value in rest:
        result = result + weight * value
    return result


def standard_normal(x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
    """What the exact denoiser of standard normal data predicts: x_0 = alpha x_t / v, eps = sigma x_t / v.

    v = alpha^2 + sigma^2.
    """
    alpha, sigma = level.alpha.item(), level.sigma.item()
    total = alpha**2 + sigma**2
    return Prediction(alpha / total * x, sigma / total * x)


@dataclass(frozen=True)
class LinearSampler(Sampler):
    """A sampler that consists of coefficients, all of them known before the first evaluation.

    Runge-Kutta, Adams and predictor-corrector methods are general linear methods (Butcher 1966), and so are the usual
    discretizations of the reverse SDE.
    """

    analytic_first_step: bool = field(default=False, kw_only=True)
    """Whether the first evaluation is that of standard normal data, which needs no network.

    It is close where x is almost pure noise, and saves one evaluation (Dockhorn et al. 2022).
    """

    quantity: ClassVar[Literal["x0", "eps"]] = "x0"
    """The prediction F in which the steps are linear."""

    @property
    def evaluations_saved(self) -> int:
        return int(self.analytic_first_step)

    @abstractmethod
    def plan(self, schedule: Schedule) -> list[LinearStep]:
        """Every step on this schedule, with its coefficients as Python floats."""

    def checked_plan(self, schedule: Schedule) -> list[LinearStep]:
        """The plan; ConfigError where a coefficient is not finite."""
        plan = self.plan(schedule)
        for step in plan:
            if not all(math.isfinite(number) for number in step.numbers()):
                raise ConfigError(
                    f"sampler: the step of {type(self).__name__} to t={step.t:g} has coefficients that are not finite, "
                    "for instance because alpha=0 at t=1; choose sampler=ddim or sampler=ddpm, a grid whose first time "
                    "is below 1, or a schedule with a signal at t=1 (schedule.zero_terminal_snr=false)"
                )
        return plan

    def check(self, schedule: Schedule) -> None:
        super().check(schedule)
        self.checked_plan(schedule)

    def step_count(self, schedule: Schedule) -> int:
        return len(self.plan(schedule))

    def run(
        self, plan: list[LinearStep], denoiser: Denoiser, x: Tensor, cond: Any, noise: Noise, *, analytic: bool
    ) -> Iterator[Step]:
        """The steps of a plan; with ``analytic`` the first evaluation is that of standard normal data."""
        history: deque[Tensor] = deque(maxlen=max(len(stage.weights) for step in plan for stage in step.stages))
        x0 = x
        evaluate = standard_normal if analytic else denoiser
        for step in plan:
            evaluations = 0
            if step.churn > 0:
                x = step.scale * x + step.churn * noise(x)
            start = x
            for stage in step.stages:
                if stage.level is not None:
                    prediction = evaluate(x, stage.level, cond)
                    evaluations += evaluate is denoiser
                    evaluate = denoiser
                    history.appendleft(getattr(prediction, self.quantity))
                    x0 = prediction.x0
                x = combination((stage.c_x, stage.c_x0, *stage.weights), (start, x0, *history))
            if step.deviation > 0:
                x = x + step.deviation * noise(x)
            yield Step(step.t, x, x0, evaluations)

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, *, cond: Any = None, noise: Noise = torch.randn_like
    ) -> Iterator[Step]:
        plan = self.checked_plan(denoiser.schedule)
        yield from self.run(plan, denoiser, x, cond, noise, analytic=self.analytic_first_step)
