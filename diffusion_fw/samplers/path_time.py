"""Euler's method and the second-order Runge-Kutta methods on the probability flow in the path's own time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import Range, register
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep, Stage


def slopes(t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """(p, q) of dx/dt = p x + q x_0 on the probability flow, float64, at noisy times t.

    dx/dt = alpha' x_0 + sigma' eps, so p = sigma' / sigma and q = alpha' - p alpha. Raises ConfigError for a table.
    """
    schedule.rates(t)  # which a table refuses
    level = schedule(t)

    def path(time: Tensor) -> tuple[Tensor, Tensor]:
        at = schedule(time)
        return at.alpha, at.sigma

    # Where alpha = 0, log_snr is infinite and has no slope, though alpha has.
    near = torch.where(level.alpha > 0, t, t * (1 - 1e-6))
    alpha_slope, sigma_slope = torch.func.jvp(path, (near,), (torch.ones_like(t),))[1]
    p = sigma_slope / level.sigma
    return p, alpha_slope - p * level.alpha


@register("sampler", "path_time")
@dataclass(frozen=True)
class PathTime(LinearSampler):
    """x_s = x_t + h ((1 - 1 / (2 a)) v_t + v_m / (2 a)), v = dx/dt = alpha'(t) x_0 + sigma'(t) eps, h = s - t.

    v_m is at m = t + a h and x_t + a h v_t. a = ``alpha``: 1 is Heun's method, 1/2 the midpoint method, 2/3 Ralston's;
    order=1 is Euler's, x_t + h v_t. On schedule=flow v = eps - x_0, the velocity of flow matching, whose samplers these
    are (Lipman et al. 2023). On schedule=vp, and on schedule=edm with power=0.5 (VE) or 1 (iDDPM and EDM), they are
    the rows of figure 2 in Karras et al. 2022: equation 4 and algorithm 1 with the sigma(t) and s(t) of table 1, and
    alpha of appendix D.2.

    Other samplers take steps in rho = sigma / alpha, where the flow is straighter; the same method in t has other
    errors. The last step, to t = 0, is Euler's and does not jump to x_0: where sigma goes as sqrt(t), it removes half
    of the noise that is left. ConfigError on a table, which has no rates.
    """

    order: Literal[1, 2] = 2
    alpha: Annotated[float, Range(0, 1, low_open=True)] = 1.0

    quantity: ClassVar[Literal["x0", "eps"]] = "x0"

    @property
    def evaluations_per_step(self) -> int | None:
        return self.order

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        levels = self.levels(schedule)
        lengths = levels.t.diff()
        middle = schedule((levels.t[:-1] + self.alpha * lengths).clamp(min=schedule.t_min))
        rows = zip(
            itertools.pairwise(levels.unbind()),
            middle.unbind(),
            lengths.tolist(),
            *(value.tolist() for value in (*slopes(levels.t[:-1], schedule), *slopes(middle.t, schedule))),
            strict=True,
        )
        share = 1 / (2 * self.alpha)
        plan = []
        for (level, end), inner, h, p, q, p_inner, q_inner in rows:
            if self.order == 1 or end.sigma == 0:
                plan.append(LinearStep(end.t.item(), (Stage(level, 1 + h * p, (h * q,)),)))
                continue
            reach = self.alpha * h
            there = Stage(level, 1 + reach * p, (reach * q,))
            first, second = h * (1 - share), h * share
            c_x = 1 + first * p + second * p_inner * there.c_x
            weights = (second * q_inner, first * q + second * p_inner * reach * q)
            plan.append(LinearStep(end.t.item(), (there, Stage(inner, c_x, weights))))
        return plan
