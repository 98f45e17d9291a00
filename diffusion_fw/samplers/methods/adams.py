"""Adams-Bashforth methods on the flow d(x / alpha) = eps d rho, rho = sigma / alpha: eps is a polynomial in a clock."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.samplers.methods.exponential import half_log_snr
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep, Stage, linear_steps
from diffusion_fw.samplers.methods.multistep import decreasing_orders, multistep_stages
from diffusion_fw.samplers.methods.runge_kutta import euler_stage, heun_stages, kutta_stages

# Gauss-Legendre nodes and weights on [0, 1].
_NODES, _WEIGHTS = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(32))
NODES, WEIGHTS = (1 + _NODES) / 2, _WEIGHTS / 2

# Quadrature runs in rho^(1/7), which resolves several decades of rho in one step and reaches 0: exact to rounding for
# polynomials in rho up to the eighth degree.
ROOT = 7


def lagrange(nodes: Tensor, at: Tensor) -> Tensor:
    """The Lagrange polynomials of the nodes (p,) at some points (n,): (p, n)."""
    rows = []
    for j, node in enumerate(nodes):
        others = torch.cat([nodes[:j], nodes[j + 1 :]])[:, None]
        rows.append(((at - others) / (node - others)).prod(0))
    return torch.stack(rows)


def quadrature(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Points rho between two values, and their weights in the integral over d rho."""
    low, high = start ** (1 / ROOT), end ** (1 / ROOT)
    points = torch.lerp(low, high, NODES)
    return points**ROOT, WEIGHTS * (high - low) * ROOT * points ** (ROOT - 1)


@dataclass(frozen=True)
class AdamsBashforth(LinearSampler):
    """x_s = (alpha_s / alpha_t) x_t + alpha_s sum_j eps_j int l_j(clock) d rho over the last ``order`` predictions.

    l_j are the Lagrange polynomials of the clock at those predictions. A method of order p = 3 or 4 starts with p - 2
    Runge-Kutta steps of order p - 1. With ``warm_up="lower_order"``, the usual choice, it starts with Euler's step and
    converges at order 2, though with a small error where the first step lies in pure noise. From a level
    without signal (alpha < 0.001 sigma) the first step is always Euler's.
    """

    warm_up: Literal["runge_kutta", "lower_order"] = "runge_kutta"
    order: Literal[1, 2, 3, 4] = 3
    lower_order_final: bool = True

    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

    @property
    def reached_order(self) -> int | None:
        return self.order if self.warm_up == "runge_kutta" else min(self.order, 2)

    @abstractmethod
    def clock(self, rho: Tensor, schedule: Schedule) -> Tensor:
        """The variable in which eps is a polynomial, at any rho."""

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        self.require_steps(self.order, f"sampler.order={self.order}")
        levels = self.levels(schedule)
        rows, alpha, rho = levels.unbind(), levels.alpha.tolist(), torch.exp(-half_log_snr(levels))
        clocks = self.clock(rho, schedule)
        scale = (levels.alpha[1:] / levels.alpha[:-1]).tolist()

        def multistep(i: int, order: int) -> Stage:
            if order == 1:
                return euler_stage(rows[i], rows[i + 1])
            # A prediction at infinite rho has no part in the polynomial: its weight's limit is 0.
            nodes = clocks[i - order + 1 : i + 1].flip(0)
            points, mass = quadrature(rho[i], rho[i + 1])
            polynomials = lagrange(nodes[nodes.isfinite()], self.clock(points, schedule))
            return Stage(rows[i], scale[i], tuple((alpha[i + 1] * (polynomials * mass).sum(1)).tolist()))

        def start(i: int) -> tuple[Stage, ...]:
            if self.order == 3:
                return heun_stages(rows[i], rows[i + 1])
            return kutta_stages(rows[i], rows[i + 1], schedule)

        orders = decreasing_orders(self.order, levels, True) if self.lower_order_final else [self.order] * self.steps
        started = self.order - 2 if self.warm_up == "runge_kutta" else 0
        return linear_steps(levels, multistep_stages(orders, multistep, start, started))
