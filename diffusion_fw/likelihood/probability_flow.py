"""The probability flow of any path, in the angle theta = atan(sigma / alpha) and scaled by r = hypot(alpha, sigma).

    u = x / r,    du/dtheta = cos(theta) eps - sin(theta) x_0,

which is bounded at both ends of the path, unlike dx/dt.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, require_deterministic
from diffusion_fw.likelihood.integrate import Derivative
from diffusion_fw.process.level import NoiseLevel, beside, expand
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError


def angle(level: NoiseLevel) -> Tensor:
    """theta = atan(sigma / alpha): 0 for data, pi/2 for noise without any signal."""
    return torch.atan(torch.exp(-level.log_snr / 2))


def radius(level: NoiseLevel) -> Tensor:
    """r = sqrt(alpha^2 + sigma^2), 1 for a variance-preserving path."""
    return torch.hypot(level.alpha, level.sigma)


def level_at(theta: Tensor, schedule: Schedule) -> NoiseLevel:
    """The level at an angle, the inverse of ``angle``."""
    return schedule(schedule.time(-2 * theta.tan().log()).clamp(max=1))


def require_every_level(schedule: Schedule, user: str) -> None:
    """ConfigError if the schedule has no level for some log-SNR between those of t_min and of t = 1.

    A table that ends in pure noise is the known case: it has no level between its last two rows.
    """
    first, last = angle(schedule(torch.tensor([1.0, schedule.t_min], dtype=torch.float64)))
    theta = torch.lerp(first, last, torch.linspace(0, 1, 65, dtype=torch.float64))
    if not bool(((angle(level_at(theta, schedule)) - theta).abs() < 1e-6).all()):
        raise ConfigError(
            f"{user} needs a level for every log-SNR between those of t=1 and of the smallest noisy time, "
            "but this schedule has a jump; choose one without, such as schedule.zero_terminal_snr=false"
        )


def velocity(denoiser: Denoiser, cond: Any) -> Derivative:
    """d(x / r)/dtheta = cos(theta) eps - sin(theta) x0, bounded at both ends of the path.

    Raises ConfigError for a denoiser that draws noise: no step size would be small enough.
    """
    require_deterministic(denoiser, "the probability flow")

    def derivative(theta: Tensor, u: Tensor) -> Tensor:
        level = level_at(theta, denoiser.schedule)
        prediction = denoiser(expand(radius(level), u) * u, beside(level, u), cond)
        slope = expand(theta.cos(), u) * prediction.eps - expand(theta.sin(), u) * prediction.x0
        return slope.to(u.dtype)

    return derivative
