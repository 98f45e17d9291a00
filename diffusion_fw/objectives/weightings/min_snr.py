"""The weight of low noise, limited."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from diffusion_fw.objectives.weighting import Weighting
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.registry import Positive, register


@register("weighting", "min_snr")
@dataclass(frozen=True)
class MinSNR(Weighting):
    """w_x0 = min(snr, gamma): one weight for networks of x_0, eps and v. Hang et al. 2023."""

    gamma: Positive = 5.0

    space: ClassVar[Literal["native", "eps", "x0"]] = "x0"

    def __call__(self, level: NoiseLevel) -> Tensor:
        return level.log_snr.exp().clamp(max=self.gamma)
