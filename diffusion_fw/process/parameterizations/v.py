"""The network predicts the velocity on the circle."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Parameterization
from diffusion_fw.registry import register


@register("parameterization", "v")
@dataclass(frozen=True)
class V(Parameterization):
    """F = alpha eps - sigma x_0: (a, b) = (-sigma, alpha). Salimans & Ho 2022, appendix D."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return -level.sigma, level.alpha
