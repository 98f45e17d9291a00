"""Improved DDPM's learned variance, between the two fixed ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from diffusion_fw.process.variance import LogVariances, Variance, required
from diffusion_fw.registry import register


@register("variance", "learned_range")
@dataclass(frozen=True)
class LearnedRange(Variance):
    """log var = u log var_large + (1 - u) log var_small, u = (v + 1) / 2, with the network's v for every value of x.

    Nichol & Dhariwal 2021, equation 15, where v is not held within [-1, 1] either. The ends are those of the step that
    is taken, so that a model samples on any respacing of the steps that it was trained on.
    """

    outputs: ClassVar[int] = 2

    def log_variance(self, step: LogVariances, logit: Tensor | None) -> Tensor:
        u = (required(logit) + 1) / 2
        return u * step.large + (1 - u) * step.small
