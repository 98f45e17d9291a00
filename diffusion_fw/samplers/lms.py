"""LMS: the linear multistep method in rho."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.methods.adams import AdamsBashforth


@register("sampler", "lms")
@dataclass(frozen=True)
class LMS(AdamsBashforth):
    """Adams-Bashforth of order 1 to 4 with eps a polynomial in rho = sigma / alpha, integrated exactly.

    Crowson 2022 (k-diffusion, sample_lms) on the flow of Karras et al. 2022; the rho-AB of Zhang and Chen 2022. It
    keeps its order to sigma = 0 unless lower_order_final.
    """

    order: Literal[1, 2, 3, 4] = 4
    lower_order_final: bool = False

    def clock(self, rho: Tensor, schedule: Schedule) -> Tensor:
        return rho
