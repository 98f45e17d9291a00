"""The squared error of the noise, whatever the network regresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.objectives.weighting import Weighting
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.registry import register


@register("weighting", "snr")
@dataclass(frozen=True)
class SNR(Weighting):
    """w_x0 = snr, which is w_eps = 1: L_simple for every parameterization. Salimans & Ho 2022, section 4.

    On a score network it is lambda = sigma^2 (Song & Ermon 2019, equation 6).
    """

    space: ClassVar[Literal["native", "eps", "x0"]] = "eps"

    def __call__(self, level: NoiseLevel) -> Tensor:
        return torch.ones_like(level.t)
