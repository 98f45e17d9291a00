"""Exponential integrators: the linear part of the flow, which is solved exactly, and the functions phi of the rest."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.registry import ConfigError


def half_log_snr(level: NoiseLevel) -> Tensor:
    """lambda = log(alpha / sigma), the time of DPM-Solver's formulas."""
    return level.log_snr / 2


def hold_eps(level_t: NoiseLevel, level_s: NoiseLevel) -> tuple[Tensor, Tensor]:
    """(c_x, c_eps) of the flow x_s = c_x x_t + c_eps eps at constant eps: alpha_s / alpha_t, alpha_s (rho_s - rho_t).

    rho = sigma / alpha; from d(x / alpha) = eps d rho. Exact at sigma_s = 0, infinite at alpha_t = 0.
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


def phi(k: int, z: float) -> float:
    """phi_k(z) = sum_j z^j / (j + k)!: phi_0 = exp, phi_{k+1}(z) = (phi_k(z) - 1 / k!) / z.

    Hochbruck and Ostermann 2010. Near 0, where the recursion cancels, the series is summed.
    """
    if abs(z) < 1:
        return sum(z**j / math.factorial(j + k) for j in range(20))
    value = math.exp(z)
    for j in range(k):
        value = (value - 1 / math.factorial(j)) / z
    return value
