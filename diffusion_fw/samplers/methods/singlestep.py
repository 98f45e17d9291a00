"""Singlestep DPM-Solver++: steps that take all their predictions of x_0 within the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.methods.exponential import half_log_snr, phi
from diffusion_fw.samplers.methods.linear import Stage


def between(level: NoiseLevel, end: NoiseLevel, fraction: float, schedule: Schedule) -> NoiseLevel:
    """The level at lambda_t + fraction h; ConfigError where h is infinite."""
    log_snr = torch.lerp(level.log_snr, end.log_snr, fraction)
    if not bool(log_snr.isfinite()):
        raise ConfigError(
            f"sampler: a step of this order needs a level between t={level.t:g} and t={end.t:g}, one of which "
            "has no finite log-SNR; lower sampler.order, or choose a grid that begins below t=1 or a schedule with "
            "a signal at t=1 (schedule.zero_terminal_snr=false)"
        )
    return schedule(schedule.time(log_snr))


def inner_levels(level: NoiseLevel, end: NoiseLevel, order: int, schedule: Schedule) -> list[NoiseLevel]:
    """The levels within a step of this order: r_1 = 1/2 for order 2, r_1 = 1/3 and r_2 = 2/3 for order 3."""
    return [between(level, end, j / order, schedule) for j in range(1, order)]


def budget_orders(order: int, evaluations: int) -> list[int]:
    """The orders of as many steps of this order as fit into a number of evaluations, and of lower ones for the rest.

    Lu et al. 2022a, section 3.4 (DPM-Solver-fast): 3, .., 3 and 2, 1 where 3 divides the evaluations, else 3, .., 3 and
    the rest, 1 or 2. Order 2 is as in their code: 2, .., 2 and the rest.
    """
    full, rest = divmod(evaluations, order)
    if order == 3 and rest == 0 and full > 0:
        return [3] * (full - 1) + [2, 1]
    return [order] * full + [rest] * (rest > 0)


def singlestep_stages(level: NoiseLevel, inner: Sequence[NoiseLevel], end: NoiseLevel) -> tuple[Stage, ...]:
    """One step of order len(inner) + 1 (Lu et al. 2022b, algorithm 1; Lu et al. 2022a, algorithm 2 written in x_0).

    The stage to lambda_t + r h takes x0(lambda_t) and the slope from there to the newest prediction.
    """
    ends = [*inner, end]
    lengths = [(half_log_snr(stop) - half_log_snr(level)).item() for stop in ends]
    weights: list[tuple[float, ...]] = []
    for i, (stop, length) in enumerate(zip(ends, lengths, strict=True)):
        alpha = stop.alpha.item()
        value = -alpha * math.expm1(-length)
        if i == 0:
            weights.append((value,))
            continue
        # Order 2 has phi_1 / 2 for phi_2, as published; the two differ by a term of third order.
        factor = value / 2 if len(inner) == 1 else alpha * length * phi(2, -length)
        slope = factor * length / lengths[i - 1]
        weights.append((slope, *[0.0] * (i - 1), value - slope))
    return tuple(
        Stage(at, (stop.sigma / level.sigma).item(), weight)
        for at, stop, weight in zip([level, *inner], ends, weights, strict=True)
    )
