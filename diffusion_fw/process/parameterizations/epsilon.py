"""The network predicts the noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Parameterization
from diffusion_fw.registry import register


@register("parameterization", "epsilon")
@dataclass(frozen=True)
class Epsilon(Parameterization):
    """F = eps: (a, b) = (0, 1). Ho et al. 2020, equation 14."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(level.t), torch.ones_like(level.t)
