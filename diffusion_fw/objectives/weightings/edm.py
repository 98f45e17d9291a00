"""EDM's weights: the preconditioned network's error counts the same at every level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from diffusion_fw.objectives.weighting import Weighting
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.sigma_data import SigmaData
from diffusion_fw.registry import register


@register("weighting", "edm")
@dataclass(frozen=True)
class EDM(SigmaData, Weighting):
    """w_x0 = (s^2 + sigma_data^2) / (s sigma_data)^2 = snr + 1 / sigma_data^2 with s = sigma / alpha.

    Karras et al. 2022, table 1: with parameterization=edm of the same sigma_data it is w_F = 1.
    """

    space: ClassVar[Literal["native", "eps", "x0"]] = "x0"

    def __call__(self, level: NoiseLevel) -> Tensor:
        return level.log_snr.exp() + 1 / self.data_deviation**2
