"""The variational bound as an objective."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.likelihood.bound import VariationalBound
from diffusion_fw.objectives.objective import Objective
from diffusion_fw.process.level import NoiseLevel, noised
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.process.variance import Variance
from diffusion_fw.registry import Runtime, register


@register("objective", "vlb")
@dataclass(frozen=True)
class VLB(Objective):
    """T L_k in bits per dimension, k the row of a table; its mean over uniform rows is the bound without L_T.

    Ho et al. 2020, equation 5; Nichol & Dhariwal 2021, equation 4. The terms differ widely in size, so use it with
    time_sampler=loss_aware. Raises ConfigError for a continuous schedule.
    """

    schedule: Runtime[Schedule]
    variance: Runtime[Variance]

    trains_variance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.bound  # noqa: B018 - refuses a continuous schedule when the objective is built

    @cached_property
    def bound(self) -> VariationalBound:
        return VariationalBound.of_table(self.schedule, self.variance, "objective")

    def __call__(
        self, denoiser: NetworkDenoiser, x0: Tensor, level: NoiseLevel, eps: Tensor, cond: Any = None
    ) -> Tensor:
        x = noised(level, x0, eps)
        return self.bits(denoiser.prediction(x, level, *denoiser.output(x, level, cond)), x0, level)

    def bits(self, prediction: Prediction, x0: Tensor, level: NoiseLevel) -> Tensor:
        """T L_k (B,) of a prediction at levels (B,)."""
        steps = self.bound.steps
        return steps * self.bound.term(prediction, x0, steps - (level.t * steps).round().long().cpu())
