"""The first step from clean data to noise."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from diffusion_fw.denoiser import Denoiser, require_deterministic
from diffusion_fw.process.level import NoiseLevel, expand, has_signal

logger = logging.getLogger(__name__)


def warn_without_signal(level: NoiseLevel) -> None:
    """Warn if x_T at this level has hardly any signal. No model divides by alpha where alpha = 0, so that is fine."""
    if level.alpha > 0 and not has_signal(level):
        logger.warning(
            "encode: alpha = %.2g at the grid's first time, t = %g, so that a model that divides by it, as with "
            "parameterization=epsilon, may return to another x_0 from there; grid=leading begins where there is signal",
            level.alpha,
            level.t,
        )


def leave_data(denoiser: Denoiser, x: Tensor, level: NoiseLevel, cond: Any = None) -> Tensor:
    """x_t at the lowest noisy level from clean data x, the inverse of the step x_0 = (x_t - sigma eps(x_t)) / alpha.

    One fixed-point iteration of x_t = alpha x_0 + sigma eps(x_t) from alpha x_0. ConfigError for a denoiser
    that draws noise.
    """
    require_deterministic(denoiser, "the encoding of x_0")
    scaled = expand(level.alpha, x) * x
    return scaled + expand(level.sigma, x) * denoiser(scaled, level, cond).eps
