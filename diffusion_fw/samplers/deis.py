"""DEIS: the exponential integrator with eps extrapolated in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.methods.adams import AdamsBashforth
from diffusion_fw.samplers.methods.linear import LinearStep


@register("sampler", "deis")
@dataclass(frozen=True)
class DEIS(AdamsBashforth):
    """tAB-DEIS: Adams-Bashforth of order 1 to 4 with eps a polynomial in t, integrated over d rho by quadrature.

    Zhang and Chen 2022, equations 14-15, whose polynomials are of degree order - 1; order 1 is DDIM. The coefficients
    depend on the grid alone. ``extrapolation=log_rho`` extrapolates in log(sigma / alpha), as diffusers does.
    """

    order: Literal[1, 2, 3, 4] = 3
    extrapolation: Literal["t", "log_rho"] = "t"
    lower_order_final: bool = True

    def clock(self, rho: Tensor, schedule: Schedule) -> Tensor:
        return rho.log() if self.extrapolation == "log_rho" else schedule.time(-2 * rho.log())

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        return self.multistep(self.order, schedule, self.lower_order_final)
