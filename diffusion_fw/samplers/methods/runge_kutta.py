"""Runge-Kutta steps of the flow d(x / alpha) = eps d rho, rho = sigma / alpha: Euler's, Heun's and Kutta's.

Each from level t to level s, with h = rho_s - rho_t and y = x / alpha:

    Euler  y_s = y_t + h eps_t
    Heun   y_s = y_t + h (eps_t + eps_s) / 2                eps_s at Euler's y_s
    Kutta  y_s = y_t + h (eps_t + 4 eps_m + eps_s) / 6      eps_m at y_m = y_t + h eps_t / 2, where rho is rho_t + h / 2
                                                            eps_s at y_t + h (2 eps_m - eps_t)
"""

from __future__ import annotations

import itertools

import torch

from diffusion_fw.process.level import NoiseLevel, has_signal
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.samplers.methods.exponential import half_log_snr, hold_eps
from diffusion_fw.samplers.methods.linear import LinearStep, Stage


def euler_stage(level: NoiseLevel, end: NoiseLevel) -> Stage:
    """Euler's step, written x_s = alpha_s x0 + sigma_s eps, which has a limit at alpha_t = 0 and at sigma_s = 0."""
    return Stage(level, 0.0, (end.sigma.item(),), c_x0=end.alpha.item())


def heun_stages(level: NoiseLevel, end: NoiseLevel) -> tuple[Stage, ...]:
    """Heun's step; Euler's to sigma = 0 and from a level without signal, where h eps_s would be all that x_s holds."""
    predictor = euler_stage(level, end)
    if end.sigma == 0 or not has_signal(level):
        return (predictor,)
    c_x, c_eps = (coefficient.item() for coefficient in hold_eps(level, end))
    return predictor, Stage(end, c_x, (c_eps / 2, c_eps / 2))


def heun_steps(levels: NoiseLevel) -> list[LinearStep]:
    """Heun's step from each of the levels (N + 1,) to the next."""
    return [LinearStep(end.t.item(), heun_stages(level, end)) for level, end in itertools.pairwise(levels)]


def kutta_stages(level: NoiseLevel, end: NoiseLevel, schedule: Schedule) -> tuple[Stage, ...]:
    """Kutta's step of order 3 (Kutta 1901); Euler's from a level without signal."""
    if not has_signal(level):
        return (euler_stage(level, end),)
    c_x, c_eps = (coefficient.item() for coefficient in hold_eps(level, end))
    rho = (torch.exp(-half_log_snr(level)) + torch.exp(-half_log_snr(end))) / 2
    middle = schedule(schedule.time(-2 * rho.log()))
    return (
        euler_stage(level, middle),
        Stage(middle, c_x, (2 * c_eps, -c_eps)),
        Stage(end, c_x, (c_eps / 6, 4 * c_eps / 6, c_eps / 6)),
    )
