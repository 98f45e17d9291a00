"""The weight of low noise, limited smoothly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.objectives.weighting import Weighting
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.registry import Positive, register


@register("weighting", "soft_min_snr")
@dataclass(frozen=True)
class SoftMinSNR(Weighting):
    """w_x0 = gamma snr / (snr + gamma): the limit of min_snr without its corner.

    Crowson et al. 2024 (Hourglass Diffusion Transformers); with s = sigma / alpha it is 1 / (s^2 + sigma_data^2) for
    gamma = 1 / sigma_data^2.
    """

    gamma: Positive = 4.0

    space: ClassVar[Literal["native", "eps", "x0"]] = "x0"

    def __call__(self, level: NoiseLevel) -> Tensor:
        return 1 / (torch.exp(-level.log_snr) + 1 / self.gamma)
