"""UniPC: a unified predictor-corrector whose corrector costs no evaluation (Zhao et al. 2023).

In the prediction m of x_0, from level t to level s with lambda = log(alpha / sigma) and h = lambda_s - lambda_t, the
predictor UniP-p and the corrector UniC-p are one formula,

    x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) m_0 - alpha_s B(h) sum_k a_k (m_k - m_0) / r_k

with m_0 the prediction at t, m_k that at lambda_t + r_k h, and B(h) any function of h + O(h^2), up to its sign. UniP-p
uses the p - 1 levels before t, all with r_k < 0. UniC-p adds s itself, r = 1, with the prediction at the x_s of UniP-p.
The next predictor uses this prediction too, so the corrector needs no evaluation of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.methods.exponential import half_log_snr, phi
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep, Stage
from diffusion_fw.samplers.methods.multistep import decreasing_orders, spread
from diffusion_fw.samplers.methods.singlestep import inner_levels, singlestep_stages


def coefficients(r: Sequence[float], h: float, b: float) -> list[float]:
    """a_1 .. a_q with sum_k a_k r_k^(n-1) = n! (-h) phi_{n+1}(-h) / B(h), n = 1 .. q, for the ratios r_1 .. r_q.

    Zhao et al. 2023, theorem 3.1 and appendix A, in the prediction of x_0; b is B(h). For q = 1 the published 1/2.
    """
    if len(r) < 2:
        return [0.5] * len(r)
    powers = torch.arange(len(r), dtype=torch.float64)[:, None]
    system = torch.tensor(r, dtype=torch.float64) ** powers
    target = [math.factorial(n) * -h * phi(n + 1, -h) / b for n in range(1, len(r) + 1)]
    result: list[float] = torch.linalg.solve(system, torch.tensor(target, dtype=torch.float64)).tolist()
    return result


def weights(r: Sequence[float], h: float, b: float, alpha: float) -> tuple[float, ...]:
    """w_0 .. w_q of x_s = (sigma_s / sigma_t) x_t + sum_k w_k m_k: the formula sorted by predictions.

    w_k = -alpha_s B(h) a_k / r_k for k = 1 .. q, and w_0 = alpha_s (1 - e^-h) - sum_k w_k; alpha is alpha_s.
    """
    w = [-alpha * b * a / ratio for a, ratio in zip(coefficients(r, h, b), r, strict=True)]
    return (-alpha * math.expm1(-h) - sum(w), *w)


@register("sampler", "unipc", renamed={"solver_order": "predictor_order"})
@dataclass(frozen=True)
class UniPC(LinearSampler):
    """UniPC-p, p = predictor_order: the predictor UniP-p of order p, with the corrector UniC-p of order p + 1.

    Zhao et al. 2023, multistep, in the prediction of x_0. B(h) is -h for ``bh1`` and exp(-h) - 1 for ``bh2``; they
    differ only where a_1 is the published 1/2. The last step is not corrected; to sigma = 0 it is x_s = m_0.

    For p = 3 the first step is one of singlestep DPM-Solver++, of order 3, or 2 without the corrector. With
    ``warm_up="lower_order"``, as published, it is UniPC-1's, which limits the order to 3, or 2 without the corrector.
    """

    predictor_order: Literal[1, 2, 3] = 2
    variant: Literal["bh1", "bh2"] = "bh2"
    corrector: bool = True
    warm_up: Literal["singlestep", "lower_order"] = "singlestep"
    lower_order_final: bool = True

    quantity: ClassVar[Literal["x0", "eps"]] = "x0"

    @property
    def order(self) -> int | None:
        order = self.predictor_order + self.corrector
        return order if self.warm_up == "singlestep" else min(order, 2 + self.corrector)

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        self.require_steps(self.predictor_order, f"sampler.predictor_order={self.predictor_order}")
        levels = self.levels(schedule)
        rows, alpha, times = levels.unbind(), levels.alpha.tolist(), levels.t.tolist()
        h = half_log_snr(levels).diff().tolist()
        c_x = (levels.sigma[1:] / levels.sigma[:-1]).tolist()
        orders = decreasing_orders(self.predictor_order, levels, self.lower_order_final)
        start = self._start(rows, schedule)
        first = 1 if start else 0
        evaluations = [0, *range(len(start) or 1, self.steps + len(start))]

        def earlier(i: int) -> dict[int, float]:
            """r_k for the step from i to i + 1, by level: the p - 1 levels before i, as far as they exist."""
            r = {i - k: -sum(h[i - k : i]) / h[i] for k in range(1, min(orders[i], i + 1))}
            # A prediction at alpha = 0 is infinitely far away: it has no part in the polynomial.
            return {level: ratio for level, ratio in r.items() if math.isfinite(ratio)}

        def stage(i: int, level: NoiseLevel | None, r: dict[int, float]) -> Stage:
            """The formula for the step from i to i + 1, after an evaluation at ``level`` if any."""
            w = weights(list(r.values()), h[i], self._b(h[i]), alpha[i + 1])
            return Stage(level, c_x[i], spread(dict(zip((i, *r), w, strict=True)), evaluations))

        plan = [LinearStep(times[1], start)] if start else []
        for i in range(first, self.steps):
            r = earlier(i)
            # The corrector of the last step has evaluated m at level i already.
            evaluated = self.corrector and i > first
            predictor = stage(i, None if evaluated else rows[i], r)
            corrector = (stage(i, rows[i + 1], {i + 1: 1.0, **r}),) if self.corrector and i < self.steps - 1 else ()
            plan.append(LinearStep(times[i + 1], (predictor, *corrector)))
        return plan

    def _b(self, h: float) -> float:
        """B(h)."""
        return -h if self.variant == "bh1" else math.expm1(-h)

    def _start(self, rows: list[NoiseLevel], schedule: Schedule) -> tuple[Stage, ...]:
        """The stages of a singlestep first step, or none."""
        if self.predictor_order < 3 or self.warm_up == "lower_order":
            return ()
        inner = inner_levels(rows[0], rows[1], self.predictor_order - 1 + self.corrector, schedule)
        return singlestep_stages(rows[0], inner, rows[1])
