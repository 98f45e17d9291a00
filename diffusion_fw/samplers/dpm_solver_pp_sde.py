"""SDE-DPM-Solver++(2M): an exponential multistep integrator of the reverse SDE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import NonNegative, register
from diffusion_fw.samplers.methods.exponential import half_log_snr
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep, Stage
from diffusion_fw.samplers.methods.multistep import decreasing_orders, multistep_stages


@register("sampler", "dpm_solver_pp_sde")
@dataclass(frozen=True)
class DPMSolverPPSDE(LinearSampler):
    """x_s = (sigma_s / sigma_t) exp(-eta h) x_t + alpha_s (1 - exp(-(1 + eta) h)) D + sigma_s sqrt(1 - e^(-2 eta h)) z.

    Lu et al. 2022b, section 5, for eta = 1, the reverse SDE; D = x0 + (x0 - x0') h / (2 h') with x0' and h' of the
    previous step. eta scales the noise (Crowson 2022, k-diffusion): 0 is DPM-Solver++(2M), of order 2. The first step
    has D = x0, and the step to sigma = 0 is x_s = x0.
    """

    eta: NonNegative = 1.0

    quantity: ClassVar[Literal["x0", "eps"]] = "x0"

    @property
    def order(self) -> int | None:
        return 2 if self.eta == 0 else None

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        levels = self.levels(schedule)
        sigma, alpha = levels.sigma, levels.alpha
        # An infinite h (from alpha = 0 or to sigma = 0) times eta = 0 is 0, and exp(-1000) is 0 already.
        h = half_log_snr(levels).diff().clamp(max=1000)
        lengths = h.tolist()
        c_x = (sigma[1:] / sigma[:-1] * torch.exp(-self.eta * h)).tolist()
        c_x0 = (-alpha[1:] * torch.expm1(-(1 + self.eta) * h)).tolist()
        deviation = (sigma[1:] * torch.sqrt(-torch.expm1(-2 * self.eta * h))).tolist()

        rows = levels.unbind()

        def multistep(i: int, order: int) -> Stage:
            if order == 1:
                return Stage(rows[i], c_x[i], (c_x0[i],))
            slope = c_x0[i] * lengths[i] / (2 * lengths[i - 1])
            return Stage(rows[i], c_x[i], (c_x0[i] + slope, -slope))

        stages = multistep_stages(decreasing_orders(2, levels, lower_order_final=True), multistep)
        planned = zip(levels.t[1:].tolist(), stages, deviation, strict=True)
        return [LinearStep(t, stage, noise) for t, stage, noise in planned]
