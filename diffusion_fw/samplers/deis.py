"""DEIS: the exponential integrator that extrapolates eps in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.methods.adams import AdamsBashforth


@register("sampler", "deis")
@dataclass(frozen=True)
class DEIS(AdamsBashforth):
    """tAB-DEIS: Adams-Bashforth of order 1 to 4 with eps a polynomial in t, integrated over d rho by quadrature.

    Zhang and Chen 2022, equations 14-15, with polynomials of degree order - 1; order 1 is DDIM. The coefficients depend
    on the grid alone. ``extrapolation=log_rho`` extrapolates in log(sigma / alpha), as diffusers does.
    """

    extrapolation: Literal["t", "log_rho"] = "t"

    def clock(self, rho: Tensor, schedule: Schedule) -> Tensor:
        return rho.log() if self.extrapolation == "log_rho" else schedule.time(-2 * rho.log())
