"""Adaptive integration of an ordinary differential equation: Dormand and Prince's embedded pair of orders 5 and 4."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.level import expand, per_example

Derivative = Callable[[Tensor, Tensor], Tensor]
"""dx/ds at s (B,), float64 on the host, and x (B, ...), of the shape of x."""

# Dormand and Prince 1980: nodes, stages (the last is the fifth-order solution) and its error estimate.
_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

# Hairer & Wanner 1996, section IV.2: the PI controller of DOPRI5.
_PROPORTIONAL, _INTEGRAL = 0.2 - 0.75 * 0.04, 0.04
_SAFETY, _SMALLEST_FACTOR, _LARGEST_FACTOR = 0.9, 0.2, 10.0


@dataclass(frozen=True)
class Solution:
    """x (B, ...) at the end and its slope there, the controller's next step (B,), and the number of evaluations."""

    x: Tensor
    slope: Tensor
    step: Tensor
    evaluations: int


def _combine(x: Tensor, step: Tensor, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """x + step sum_j weights_j slopes_j."""
    terms = [weight * slope for weight, slope in zip(weights, slopes, strict=True) if weight != 0]
    return x + expand(step, x) * torch.stack(terms).sum(0)


def _norm(x: Tensor, scale: Tensor) -> Tensor:
    """The root mean square of x / scale over each example (B,), float64 on the host."""
    return (x / scale).flatten(1).to(torch.float64).square().mean(1).sqrt().detach().cpu()


def _first_step(derivative: Derivative, x: Tensor, slope: Tensor, s: Tensor, span: float, scale: Tensor) -> Tensor:
    """A first step (B,) from the sizes of the first two derivatives (Hairer et al. 1993, section II.4)."""
    size, first = _norm(x, scale), _norm(slope, scale)
    trial = torch.where((size < 1e-5) | (first < 1e-5), 1e-6, 0.01 * size / first).clamp(max=abs(span))
    signed = math.copysign(1, span) * trial
    second = _norm(derivative(s + signed, _combine(x, signed, (1.0,), (slope,))) - slope, scale) / trial
    largest = torch.maximum(first, second)
    step = torch.where(largest <= 1e-15, (1e-3 * trial).clamp(min=1e-6), (0.01 / largest) ** (1 / 5))
    return torch.minimum(100 * trial, step).clamp(max=abs(span))


def integrate(
    derivative: Derivative,
    x: Tensor,
    start: float,
    end: float,
    *,
    atol: float,
    rtol: float,
    first_step: Tensor | None = None,
    max_steps: int = 10_000,
) -> Solution:
    """x(end) of dx/ds = derivative(s, x), x(start) = x (B, ...), in either direction.

    A step is accepted where the root mean square of error / (atol + rtol max(|x|, |x_new|)) is at most 1 (Dormand and
    Prince 1980; controller of Hairer et al. 1993). Each example has its own steps, so its result does not depend on
    the others of the batch. ``first_step`` continues with the step of an earlier solution.
    Raises ArithmeticError if the tolerance needs steps below the resolution of s, or more than max_steps.
    """
    span = end - start
    s = torch.full((x.shape[0],), start, dtype=torch.float64)
    slope = derivative(s, x)
    evaluations = 1
    step = first_step
    if step is None:
        step = _first_step(derivative, x, slope, s, span, atol + rtol * x.abs())
        evaluations += 1
    direction, previous = math.copysign(1, span), torch.full_like(s, 1e-4)
    for _ in range(max_steps):
        remaining = (end - s).abs()
        if bool((remaining == 0).all()):
            return Solution(x, slope, step, evaluations)
        last = step >= remaining
        size = torch.where(last, remaining, step)
        signed = direction * size
        slopes = [slope]
        for node, weights in zip(_NODES[1:], _STAGES, strict=True):
            proposal = _combine(x, signed, weights, slopes)
            slopes.append(derivative(torch.where(last & (node == 1), end, s + node * signed), proposal))
        evaluations += len(_STAGES)
        error = _norm(
            _combine(torch.zeros_like(x), signed, _ERROR, slopes), atol + rtol * torch.maximum(x.abs(), proposal.abs())
        ).nan_to_num(nan=torch.inf)
        accepted = error <= 1
        factor = (_SAFETY * error**-_PROPORTIONAL * previous**_INTEGRAL).clamp(_SMALLEST_FACTOR, _LARGEST_FACTOR)
        factor = torch.where(accepted, factor, factor.clamp(max=1.0))
        # A step that the end cut short must not shrink the next one.
        step = torch.where(accepted & last, torch.maximum(step, size * factor), size * factor)
        previous = torch.where(accepted, error.clamp(min=1e-4), previous)
        s = torch.where(accepted, torch.where(last, end, s + signed), s)
        mask = per_example(accepted.to(x.device), x)
        x, slope = torch.where(mask, proposal, x), torch.where(mask, slopes[-1], slope)
        if bool((step < 1e-14 * abs(span)).any()):
            raise ArithmeticError(f"atol={atol:g}, rtol={rtol:g} cannot be reached near s={s[step.argmin()].item():g}")
    raise ArithmeticError(f"atol={atol:g}, rtol={rtol:g} took more than {max_steps} steps")
