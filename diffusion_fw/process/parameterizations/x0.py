"""The network predicts the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Parameterization
from diffusion_fw.registry import register


@register("parameterization", "x0")
@dataclass(frozen=True)
class X0(Parameterization):
    """F = x_0: (a, b) = (1, 0). Ho et al. 2020, section 3.2; Salimans & Ho 2022."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return torch.ones_like(level.t), torch.zeros_like(level.t)
