"""Improved DDPM's objective: the simple one for the mean, the bound for the variance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.objectives.objective import Objective
from diffusion_fw.objectives.simple import Simple
from diffusion_fw.objectives.vlb import VLB
from diffusion_fw.objectives.weighting import Weighting
from diffusion_fw.process.level import NoiseLevel, noised
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.process.variance import Variance
from diffusion_fw.registry import ConfigError, NonNegative, Runtime, register


@register("objective", "hybrid")
@dataclass(frozen=True)
class Hybrid(Objective):
    """L_simple + vlb_weight L_vlb, where L_vlb trains the variance alone: no gradient flows through its mean.

    Nichol & Dhariwal 2021, equation 16, with L_vlb in bits per dimension and vlb_weight = lambda. Raises ConfigError
    for a fixed variance, which L_vlb cannot train, and for a continuous schedule.
    """

    weighting: Runtime[Weighting]
    schedule: Runtime[Schedule]
    variance: Runtime[Variance]
    vlb_weight: NonNegative = 0.001

    trains_variance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.variance.outputs == 1:
            raise ConfigError(
                "it trains a learned variance, but variance=... is fixed; choose variance=learned_range, "
                "or objective=simple or objective=vlb"
            )
        self.vlb  # noqa: B018 - refuses a continuous schedule when the objective is built

    @cached_property
    def vlb(self) -> VLB:
        return VLB(self.schedule, self.variance)

    def __call__(
        self, denoiser: NetworkDenoiser, x0: Tensor, level: NoiseLevel, eps: Tensor, cond: Any = None
    ) -> Tensor:
        x = noised(level, x0, eps)
        output, logit = denoiser.output(x, level, cond)
        simple = Simple(self.weighting).error(denoiser.parameterization, output, x0, level, eps)
        prediction = denoiser.prediction(x, level, output.detach(), logit)
        return simple + self.vlb_weight * self.vlb.bits(prediction, x0, level)
