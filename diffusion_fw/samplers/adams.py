"""Adams-Bashforth methods on the flow d(x / alpha) = eps d rho, rho = sigma / alpha: eps by a polynomial in a clock."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.exponential import half_log_snr, hold_eps
from diffusion_fw.samplers.linear import LinearSampler, LinearStep, Stage
from diffusion_fw.samplers.multistep import decreasing_orders, multistep_stages

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


def runge_kutta_stages(level: NoiseLevel, end: NoiseLevel, order: int, schedule: Schedule) -> tuple[Stage, ...]:
    """One step of Heun's method (order 2) or Kutta's (order 3) in rho, whose middle stage is at the mean rho."""
    c_x, c_eps = (coefficient.item() for coefficient in hold_eps(level, end))
    if order == 2:
        return Stage(level, c_x, (c_eps,)), Stage(end, c_x, (c_eps / 2, c_eps / 2))
    rho = (torch.exp(-half_log_snr(level)) + torch.exp(-half_log_snr(end))) / 2
    if not bool(rho.isfinite()):
        raise ConfigError(
            "sampler: a Runge-Kutta step of order 3 from alpha=0 has no middle; lower sampler.order, or choose a grid "
            "that begins below t=1 or a schedule with a signal at t=1 (schedule.zero_terminal_snr=false)"
        )
    middle = schedule(schedule.time(-2 * rho.log()))
    half_x, half_eps = (coefficient.item() for coefficient in hold_eps(level, middle))
    return (
        Stage(level, half_x, (half_eps,)),
        Stage(middle, c_x, (2 * c_eps, -c_eps)),
        Stage(end, c_x, (c_eps / 6, 4 * c_eps / 6, c_eps / 6)),
    )


def quadrature(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Points rho between two values, and their weights in the integral over d rho."""
    low, high = start ** (1 / ROOT), end ** (1 / ROOT)
    points = torch.lerp(low, high, NODES)
    return points**ROOT, WEIGHTS * (high - low) * ROOT * points ** (ROOT - 1)


@dataclass(frozen=True)
class AdamsBashforth(LinearSampler):
    """x_s = (alpha_s / alpha_t) x_t + alpha_s sum_j eps_j int l_j(clock) d rho over the last ``order`` predictions.

    l_j are the Lagrange polynomials of the clock at those predictions. A method of order p = 3 or 4 begins with p - 2
    Runge-Kutta steps of order p - 1; with ``warm_up="lower_order"``, the usual way, it begins with Euler's step and
    converges at order 2, though with a small error where the first step lies in pure noise.
    """

    warm_up: Literal["runge_kutta", "lower_order"] = "runge_kutta"

    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

    @abstractmethod
    def clock(self, rho: Tensor, schedule: Schedule) -> Tensor:
        """The variable in which eps is taken to be a polynomial, at any rho."""

    def multistep(self, order: int, schedule: Schedule, lower_order_final: bool) -> list[LinearStep]:
        """The plan of the method of this order; its order at the steps to sigma = 0 falls to 1 if it is to be lower."""
        self.require_steps(order, f"sampler.order={order}")
        levels = self.levels(schedule)
        rows, alpha, rho = list(levels.unbind()), levels.alpha.tolist(), torch.exp(-half_log_snr(levels))
        clocks = self.clock(rho, schedule)
        c_x, c_eps = (values.tolist() for values in hold_eps(levels.at(slice(None, -1)), levels.at(slice(1, None))))

        def weights(i: int, order: int) -> tuple[float, list[float]]:
            if order == 1:
                return c_x[i], [c_eps[i]]
            points, mass = quadrature(rho[i], rho[i + 1])
            polynomials = lagrange(clocks[i - order + 1 : i + 1].flip(0), self.clock(points, schedule))
            return c_x[i], (alpha[i + 1] * (polynomials * mass).sum(1)).tolist()

        def start(i: int) -> tuple[Stage, ...]:
            return runge_kutta_stages(rows[i], rows[i + 1], order - 1, schedule)

        orders = decreasing_orders(order, levels, True) if lower_order_final else [order] * self.steps
        stages = multistep_stages(levels, orders, weights, start, order - 2 if self.warm_up == "runge_kutta" else 0)
        return [LinearStep(t, stage) for t, stage in zip(levels.t[1:].tolist(), stages, strict=True)]
