"""Perception-prioritized weights: little weight for what the eye does not see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from diffusion_fw.objectives.weighting import Weighting
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.registry import NonNegative, Positive, register


@register("weighting", "p2")
@dataclass(frozen=True)
class P2(Weighting):
    """w_eps = 1 / (k + snr)^gamma. Choi et al. 2022, equation 8."""

    k: Positive = 1.0
    gamma: NonNegative = 1.0

    space: ClassVar[Literal["native", "eps", "x0"]] = "eps"

    def __call__(self, level: NoiseLevel) -> Tensor:
        return (self.k + level.log_snr.exp()) ** -self.gamma
