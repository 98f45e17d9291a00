"""UniPC: a unified predictor-corrector whose corrector costs no evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.dpm_solver_pp import inner_levels, singlestep_stages
from diffusion_fw.samplers.methods.exponential import half_log_snr, phi
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep, Stage
from diffusion_fw.samplers.methods.multistep import decreasing_orders, spread


def coefficients(ratios: Sequence[float], h: float, scale: float) -> list[float]:
    """a_1 .. a_p with sum_k a_k r_k^(n-1) = n! (-h) phi_{n+1}(-h) / B(h), n = 1 .. p; scale is B(h).

    Zhao et al. 2023, theorem 3.1 and appendix A, in the prediction of x_0. With one ratio the published 1/2.
    """
    if len(ratios) < 2:
        return [0.5] * len(ratios)
    powers = torch.arange(len(ratios), dtype=torch.float64)[:, None]
    system = torch.tensor(ratios, dtype=torch.float64) ** powers
    target = [math.factorial(n) * -h * phi(n + 1, -h) / scale for n in range(1, len(ratios) + 1)]
    return torch.linalg.solve(system, torch.tensor(target, dtype=torch.float64)).tolist()


@register("sampler", "unipc")
@dataclass(frozen=True)
class UniPC(LinearSampler):
    """x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) m_0 - alpha_s B(h) sum_k a_k (m_k - m_0) / r_k.

    Zhao et al. 2023, multistep, in the prediction m of x_0: the predictor (UniP-p, p = solver_order) uses the
    predictions at earlier levels, r_k = (lambda_k - lambda_t) / h; the corrector (UniC-p) adds the one at s itself,
    r = 1, which the next predictor uses too, and raises the order to p + 1. B(h) is -h for ``bh1`` and exp(-h) - 1 for
    ``bh2``; they differ where the published 1/2 is used. The last step is not corrected; to sigma = 0 it is x_s = m_0.

    For p = 3 the first step is one of DPM-Solver++ singlestep, of order 3, or 2 without the corrector; with
    ``warm_up="lower_order"``, as published, it is UniPC-1's, which holds the order at 3, and at 2 without corrector.
    """

    solver_order: Literal[1, 2, 3] = 2
    variant: Literal["bh1", "bh2"] = "bh2"
    corrector: bool = True
    warm_up: Literal["singlestep", "lower_order"] = "singlestep"
    lower_order_final: bool = True

    quantity: ClassVar[Literal["x0", "eps"]] = "x0"

    @property
    def order(self) -> int | None:
        order = self.solver_order + self.corrector
        return order if self.warm_up == "singlestep" else min(order, 2 + self.corrector)

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        self.require_steps(self.solver_order, f"sampler.solver_order={self.solver_order}")
        levels = self.levels(schedule)
        rows, alpha = levels.unbind(), levels.alpha.tolist()
        lengths = half_log_snr(levels).diff().tolist()
        c_x = (levels.sigma[1:] / levels.sigma[:-1]).tolist()
        orders = decreasing_orders(self.solver_order, levels, self.lower_order_final)
        start = self._start(rows, schedule)
        asked = [0, *range(len(start) or 1, self.steps + len(start))]
        plan = [LinearStep(rows[1].t.item(), start)] if start else []
        unasked = True
        for i in range(len(plan), self.steps):
            h = lengths[i]
            scale = -h if self.variant == "bh1" else math.expm1(-h)
            held, rise = -alpha[i + 1] * math.expm1(-h), -alpha[i + 1] * scale
            past = [-sum(lengths[i - k : i]) / h for k in range(1, min(orders[i], i + 1))]
            # A prediction at alpha = 0 is infinitely far: it has no part in the polynomial.
            past = [ratio for ratio in past if math.isfinite(ratio)]
            known = range(i, i - len(past) - 1, -1)
            predicted = [rise * a / r for a, r in zip(coefficients(past, h, scale), past, strict=True)]
            weights = (held - sum(predicted), *predicted)
            stages = [Stage(rows[i] if unasked else None, c_x[i], spread(weights, asked, known))]
            unasked = not self.corrector or i == self.steps - 1
            if not unasked:
                ratios = [1.0, *past]
                corrected = [rise * a / r for a, r in zip(coefficients(ratios, h, scale), ratios, strict=True)]
                weights = (corrected[0], held - sum(corrected), *corrected[1:])
                stages.append(Stage(rows[i + 1], c_x[i], spread(weights, asked, (i + 1, *known))))
            plan.append(LinearStep(rows[i + 1].t.item(), tuple(stages)))
        return plan

    def _start(self, rows: list[NoiseLevel], schedule: Schedule) -> tuple[Stage, ...]:
        """The stages of a singlestep first step, or none."""
        if self.solver_order < 3 or self.warm_up == "lower_order":
            return ()
        inner = inner_levels(rows[0], rows[1], self.solver_order - 1 + self.corrector, schedule)
        return singlestep_stages(rows[0], inner, rows[1])
