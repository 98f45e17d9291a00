"""A learned variance without bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from diffusion_fw.process.variance import LogVariances, Variance, required
from diffusion_fw.registry import register


@register("variance", "learned")
@dataclass(frozen=True)
class Learned(Variance):
    """log var = log var_large + v, with the network's v for every value of x.

    The diagonal variance that Ho et al. 2020, section 4.2, found unstable to learn, kept in units of the step that is
    taken, so that a model samples on any respacing; at v = 0, where a network starts, it is var_large.
    """

    outputs: ClassVar[int] = 2

    def log_variance(self, step: LogVariances, logit: Tensor | None) -> Tensor:
        return step.large + required(logit)
