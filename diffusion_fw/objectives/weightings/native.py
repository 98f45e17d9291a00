"""No weight: the squared error of what the network outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.objectives.weighting import Weighting
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.registry import register


@register("weighting", "native")
@dataclass(frozen=True)
class Native(Weighting):
    """w_F = 1: with epsilon this is DDPM's L_simple (Ho et al. 2020, equation 14)."""

    space: ClassVar[Literal["native", "eps", "x0"]] = "native"

    def __call__(self, level: NoiseLevel) -> Tensor:
        return torch.ones_like(level.t)
