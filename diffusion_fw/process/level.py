"""A noise level of the Gaussian path x_t = alpha x_0 + sigma eps, and arithmetic with its float64 coefficients.

log_snr = 2 log(alpha / sigma) is the one number that a level is known by; three paths make alpha and sigma of it:

    variance_preserving  alpha^2 + sigma^2 = 1    alpha = sqrt(sigmoid(log_snr)),  sigma = sqrt(sigmoid(-log_snr))
    variance_exploding   alpha = 1                sigma = exp(-log_snr / 2)
    linear_interpolant   alpha + sigma = 1        alpha = sigmoid(log_snr / 2),    sigma = sigmoid(-log_snr / 2)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffusion_fw.process.rows import Rows


@dataclass(frozen=True, eq=False)
class NoiseLevel(Rows):
    """Points of the path x_t = alpha x_0 + sigma eps; four float64 tensors of the shape of t.

    log_snr = 2 log(alpha / sigma) is stored, never computed again from rounded alpha and sigma. Indexing, length and
    iteration are those of the first dimension of t.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    log_snr: Tensor

    def followed_by(self, last: NoiseLevel) -> NoiseLevel:
        """These levels with one more, a scalar, at the end."""
        pairs = zip(self.tensors(), last.tensors(), strict=True)
        return NoiseLevel(*(torch.cat([values, end[None]]) for values, end in pairs))

    def steps(self) -> tuple[NoiseLevel, NoiseLevel]:
        """(starts, ends) of the N steps between N + 1 levels."""
        return self[:-1], self[1:]


def variance_preserving(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = sqrt(sigmoid(log_snr)), sigma = sqrt(sigmoid(-log_snr)), exact at both ends."""
    return torch.exp(logsigmoid(log_snr) / 2), torch.exp(logsigmoid(-log_snr) / 2)


def variance_exploding(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = 1, sigma = exp(-log_snr / 2)."""
    return torch.ones_like(log_snr), torch.exp(-log_snr / 2)


def linear_interpolant(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = sigmoid(log_snr / 2), sigma = sigmoid(-log_snr / 2): alpha + sigma = 1, exact at both ends."""
    return torch.sigmoid(log_snr / 2), torch.sigmoid(-log_snr / 2)


SMALLEST_SIGNAL = 1e-3


def has_signal(level: NoiseLevel) -> Tensor:
    """Whether alpha >= 0.001 sigma (bool, like level.t). Below, x_t says nothing of x_0 that a network could use."""
    return level.log_snr >= 2 * math.log(SMALLEST_SIGNAL)


def per_example(values: Tensor, x: Tensor) -> Tensor:
    """Values (B,), one per example, shaped to broadcast with x (B, ...)."""
    return values.view(-1, *(1,) * (x.ndim - 1))


def beside(level: NoiseLevel, x: Tensor) -> NoiseLevel:
    """Levels (B,), one for each example of x (B, ...), shaped (B, 1, ..., 1) on its device: alpha x is right as it is.

    float64, or float32 on a device without it.
    """
    dtype = torch.float32 if x.device.type == "mps" else torch.float64
    return level.map(lambda value: per_example(value.to(device=x.device, dtype=dtype, non_blocking=True), x))


def require_level(level: object, denoiser: object) -> None:
    """TypeError for a time, or anything else, in the place of a level."""
    if not isinstance(level, NoiseLevel):
        raise TypeError(
            f"{type(denoiser).__name__}(x, level): the level is a NoiseLevel, not {level!r:.100}; for a time t in "
            "[0, 1] it is denoiser.schedule(t), for a noise level sigma / alpha = s it is "
            "denoiser.schedule(denoiser.schedule.time(-2 * math.log(s)))"
        )


def expand(coefficient: Tensor, x: Tensor) -> Tensor:
    """A float64 coefficient, scalar or one per example, in the form in which it multiplies x (B, ...).

    A scalar stays on the host, where a kernel takes it as an argument; others are cast once and moved to x.
    """
    if coefficient.ndim == 0:
        return coefficient
    return per_example(coefficient.to(device=x.device, dtype=x.dtype, non_blocking=True), x)


def scale(a: Tensor | float, x: Tensor) -> Tensor:
    """a x, with a tensor expanded to x; the number 1 costs no pass over the data."""
    return x if isinstance(a, float) and a == 1 else a * x


def combine(a: Tensor | float, x: Tensor, b: Tensor | float, y: Tensor) -> Tensor:
    """a x + b y, with tensors expanded to x; a number that is 0 or 1 costs no pass over the data."""
    if isinstance(b, Tensor):
        return a * x + b * y
    if b == 0:
        return scale(a, x)
    if isinstance(a, float) and a == 0:
        return scale(b, y)
    return torch.add(scale(a, x), y, alpha=b)


def noised(level: NoiseLevel, x0: Tensor, eps: Tensor) -> Tensor:
    """x_t = alpha x_0 + sigma eps."""
    return expand(level.alpha, x0) * x0 + expand(level.sigma, x0) * eps
