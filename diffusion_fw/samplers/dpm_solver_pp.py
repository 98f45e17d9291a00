"""DPM-Solver++: exponential integrators of the probability flow in the prediction of x_0."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, Size, register
from diffusion_fw.samplers.methods.exponential import half_log_snr, phi
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep, Stage, linear_steps
from diffusion_fw.samplers.methods.multistep import decreasing_orders, multistep_stages
from diffusion_fw.samplers.methods.singlestep import budget_orders, inner_levels, singlestep_stages


def multistep_weights(order: int, h: float, past: Sequence[float], d2_factor: float) -> tuple[float, ...]:
    """The weights, over alpha_s, of the predictions at lambda_t, lambda_t - past[0], lambda_t - past[0] - past[1].

    Lu et al. 2022b, section 4.2: order 2 is algorithm 2. Order 3 integrates the parabola through the three predictions,
    D1 = h dx0/dlambda and D2 = h^2 d^2x0/dlambda^2, where d2_factor = 2 in D2 = d2_factor (D1_0 - D1_1) / (r0 + r1).
    """
    phi_1 = -math.expm1(-h)
    if order == 1:
        return (phi_1,)
    r0 = past[0] / h
    if order == 2:
        return phi_1 * (1 + 1 / (2 * r0)), -phi_1 / (2 * r0)
    r1 = past[1] / h
    phi_2, phi_3 = h * phi(2, -h), h * phi(3, -h)
    # The factors of D1_0 = (m0 - m1) / r0 and D1_1 = (m1 - m2) / r1.
    curvature = (phi_2 * r0 + phi_3 * d2_factor) / (r0 + r1)
    first, second = (phi_2 + curvature) / r0, -curvature / r1
    return phi_1 + first, second - first, -second


@register("sampler", "dpm_solver_pp")
@dataclass(frozen=True)
class DPMSolverPP(LinearSampler):
    """x_s = (sigma_s / sigma_t) x_t + alpha_s int_0^h exp(u - h) x0(lambda_t + u) du, h = lambda_s - lambda_t.

    Lu et al. 2022b, proposition 4.1, with x0 expanded about lambda_t to ``order`` terms: from earlier steps, or with
    ``singlestep`` from ``order`` evaluations within the step. Order 1 is DDIM. The step to sigma = 0 is x_s = x0;
    lower_order_final lowers the order towards it, which helps at few steps.

    The usual code of the third-order multistep formula (``third_order="halved"``) takes half of D2 and starts with a
    first-order step: it converges at order 2. ``exact`` starts with a singlestep step and reaches order 3.

    ``evaluations`` is a budget for singlestep: all but the last are for steps of ``order`` and then of lower orders
    (DPM-Solver-fast, Lu et al. 2022a, appendix D), the last is the step to sigma = 0. 20 evaluations of order 3 are the
    8 steps 3, 3, 3, 3, 3, 3, 1, 1. ConfigError where sampler.steps is another number.
    """

    order: Literal[1, 2, 3] = 2
    singlestep: bool = False
    lower_order_final: bool = True
    third_order: Literal["exact", "halved"] = "exact"
    evaluations: Size | None = None

    quantity: ClassVar[Literal["x0", "eps"]] = "x0"

    def __post_init__(self) -> None:
        if self.evaluations is not None and not self.singlestep:
            raise ConfigError(
                f"sampler.evaluations={self.evaluations} is a budget for singlestep steps; a multistep step has one "
                "evaluation; set sampler.singlestep=true, or sampler.evaluations=null and sampler.steps"
            )

    @property
    def reached_order(self) -> int | None:
        return self.order if self.singlestep or self.third_order == "exact" else min(self.order, 2)

    @property
    def evaluations_per_step(self) -> int | None:
        return self.order if self.singlestep else 1

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        self.require_steps(
            min(self.order, 2) if self.singlestep else self.order,
            f"sampler.order={self.order} with sampler.singlestep={str(self.singlestep).lower()}",
        )
        levels = self.levels(schedule)
        stages = self._singlestep(levels, schedule) if self.singlestep else self._multistep(levels, schedule)
        return linear_steps(levels, stages)

    def _singlestep(self, levels: NoiseLevel, schedule: Schedule) -> list[tuple[Stage, ...]]:
        orders = self._orders(levels)
        return [
            singlestep_stages(level, inner_levels(level, end, order, schedule), end)
            for (level, end), order in zip(itertools.pairwise(levels), orders, strict=True)
        ]

    def _orders(self, levels: NoiseLevel) -> list[int]:
        """The order of every singlestep step."""
        if self.evaluations is None:
            return decreasing_orders(self.order, levels, lower_order_final=False)
        final = [1] * int(levels.sigma[-1] == 0)
        orders = budget_orders(self.order, self.evaluations - len(final)) + final
        if len(orders) != self.steps:
            raise ConfigError(
                f"sampler.steps={self.steps}: {self.evaluations} evaluations of order {self.order} are {len(orders)} "
                f"steps; set sampler.steps={len(orders)}, or sampler.evaluations"
            )
        return orders

    def _multistep(self, levels: NoiseLevel, schedule: Schedule) -> list[tuple[Stage, ...]]:
        rows, alpha = levels.unbind(), levels.alpha.tolist()
        h = half_log_snr(levels).diff().tolist()
        c_x = (levels.sigma[1:] / levels.sigma[:-1]).tolist()
        exact = self.third_order == "exact"

        def multistep(i: int, order: int) -> Stage:
            past = [h[i - j] for j in range(1, order)]
            weights = multistep_weights(order, h[i], past, 2.0 if exact else 1.0)
            return Stage(rows[i], c_x[i], tuple(alpha[i + 1] * weight for weight in weights))

        def start(i: int) -> tuple[Stage, ...]:
            return singlestep_stages(rows[i], inner_levels(rows[i], rows[i + 1], 2, schedule), rows[i + 1])

        orders = decreasing_orders(self.order, levels, self.lower_order_final)
        return multistep_stages(orders, multistep, start, self.order - 2 if exact else 0)
