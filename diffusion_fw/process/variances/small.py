"""The posterior's variance."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from diffusion_fw.process.variance import LogVariances, Variance
from diffusion_fw.registry import register


@register("variance", "small")
@dataclass(frozen=True)
class Small(Variance):
    """var_small = sigma_s^2 tau, that of q(x_s | x_t, x_0): right for data of one point.

    Ho et al. 2020, section 3.2.
    """

    def log_variance(self, step: LogVariances, logit: Tensor | None) -> Tensor:
        return step.small
