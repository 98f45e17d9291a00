"""The first step from clean data to noise."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from diffusion_fw.denoiser import Denoiser
from diffusion_fw.process.level import NoiseLevel, expand


def leave_data(denoiser: Denoiser, x: Tensor, level: NoiseLevel, cond: Any = None) -> Tensor:
    """x_t at the lowest noisy level from clean data x, the inverse of the step x_0 = (x_t - sigma eps(x_t)) / alpha.

    One fixed-point iteration of x_t = alpha x_0 + sigma eps(x_t) from alpha x_0.
    """
    scaled = expand(level.alpha, x) * x
    return scaled + expand(level.sigma, x) * denoiser(scaled, level, cond).eps
