"""Sigmoid weights, which fall with the signal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.objectives.weighting import Weighting
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.registry import register


@register("weighting", "sigmoid")
@dataclass(frozen=True)
class Sigmoid(Weighting):
    """w_eps = sigmoid(bias - log_snr). Kingma & Gao 2023 (bias 2); Hoogeboom et al. 2024 (SiD2).

    Their loss is an integral over log_snr, so that with t uniform -d log_snr / dt is a factor beside this weight; here
    the density of log_snr in training is the choice of schedule and time_sampler alone.
    """

    bias: float = 2.0

    space: ClassVar[Literal["native", "eps", "x0"]] = "eps"

    def __call__(self, level: NoiseLevel) -> Tensor:
        return torch.sigmoid(self.bias - level.log_snr)
