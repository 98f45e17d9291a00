"""The flow's exact linear part: x_s from x_t where one end of the path is held, and the functions phi of the rest."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError


def half_log_snr(level: NoiseLevel) -> Tensor:
    """lambda = log(alpha / sigma), the time in which DPM-Solver's formulas are written."""
    return level.log_snr / 2


def hold_x0(level_t: NoiseLevel, level_s: NoiseLevel) -> tuple[Tensor, Tensor]:
    """(c_x, c_0) of x_s = c_x x_t + c_0 x0 on the flow with x0 held: sigma_s / sigma_t, alpha_s (1 - exp(-h)).

    h = lambda_s - lambda_t; from d(x / sigma) = x0 d(alpha / sigma). Exact down to sigma_s = 0 and up to alpha_t = 0.
    """
    h = half_log_snr(level_s) - half_log_snr(level_t)
    return level_s.sigma / level_t.sigma, -level_s.alpha * torch.expm1(-h)


def hold_eps(level_t: NoiseLevel, level_s: NoiseLevel) -> tuple[Tensor, Tensor]:
    """(c_x, c_eps) of x_s = c_x x_t + c_eps eps on the flow with eps held: alpha_s / alpha_t, alpha_s (rho_s - rho_t).

    rho = sigma / alpha; from d(x / alpha) = eps d rho. Exact down to sigma_s = 0; infinite where alpha_t = 0.
    """
    h = half_log_snr(level_s) - half_log_snr(level_t)
    scale = level_s.alpha / level_t.alpha
    return scale, scale * level_t.sigma * torch.expm1(-h)


def require_signal(levels: NoiseLevel, reason: str) -> None:
    """ConfigError where alpha = 0 at one of the levels."""
    if not bool(levels.alpha.all()):
        raise ConfigError(
            f"sampler: alpha=0 at the grid's first time, {reason}; choose sampler=ddim or sampler=ddpm, a grid that "
            "begins below t=1, or a schedule with a signal at t=1 (schedule.zero_terminal_snr=false)"
        )


def between(level_t: NoiseLevel, level_s: NoiseLevel, fraction: float, schedule: Schedule) -> NoiseLevel:
    """The level at lambda_t + fraction h; ConfigError where the interval has no such place."""
    log_snr = torch.lerp(level_t.log_snr, level_s.log_snr, fraction)
    if not bool(log_snr.isfinite()):
        raise ConfigError(
            f"sampler: a step of this order needs a level between t={level_t.t:g} and t={level_s.t:g}, one of which "
            "has no finite log-SNR; lower sampler.order, or choose a grid that begins below t=1 or a schedule with "
            "a signal at t=1 (schedule.zero_terminal_snr=false)"
        )
    return schedule(schedule.time(log_snr))


def phi(k: int, z: float) -> float:
    """phi_k(z) = sum_j z^j / (j + k)!: phi_0 = exp, phi_{k+1}(z) = (phi_k(z) - 1 / k!) / z.

    The functions of exponential integrators (Hochbruck and Ostermann 2010), by their series near 0,
    where the recursion cancels.
    """
    if abs(z) < 1:
        return sum(z**j / math.factorial(j + k) for j in range(20))
    value = math.exp(z)
    for j in range(k):
        value = (value - 1 / math.factorial(j)) / z
    return value
