"""A learned spread of the data, from which every step's variance follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_fw.process.variance import LogVariances, Variance, required
from diffusion_fw.registry import register


@register("variance", "learned_spread")
@dataclass(frozen=True)
class LearnedSpread(Variance):
    """var = var_small + c_x0^2 S, S = Var[x_0 | x_t] = exp(v) sigma_t^2 / (alpha_t^2 + sigma_t^2) for every value of x.

    The variance at which the bound is least (Bao et al. 2022, "Analytic-DPM", theorem 1, here for every value of x):
    that of x_s given x_t, since q(x_s | x_t, x_0) has var_small around c_x0 x_0 + c_xt x_t. S belongs to t alone, so
    that what was learned on short steps is right for long ones, which an interpolation between the ends of the range is
    not. At v = 0, where a network starts, it is exact for data of N(0, I).
    """

    outputs: ClassVar[int] = 2

    def log_variance(self, step: LogVariances, logit: Tensor | None) -> Tensor:
        spread = step.spread + required(logit)
        return torch.where(step.to_data, spread, torch.logaddexp(step.small, spread))
