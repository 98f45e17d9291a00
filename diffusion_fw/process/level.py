"""Where one stands on the Gaussian path: alpha, sigma and the log signal-to-noise ratio, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class NoiseLevel(NamedTuple):
    """A point of the path x_t = alpha x_0 + sigma eps; four float64 tensors of the shape of t.

    log_snr = 2 log(alpha / sigma) is kept, never computed again from rounded alpha and sigma.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    log_snr: Tensor

    def at(self, key: int | slice) -> NoiseLevel:
        """The levels selected by an index or slice of the first dimension."""
        return NoiseLevel(*(value[key] for value in self))

    def unbind(self) -> Iterator[NoiseLevel]:
        """One scalar level for each entry of the first dimension."""
        return (NoiseLevel(*row) for row in zip(*(value.unbind() for value in self), strict=True))


def variance_preserving(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = sqrt(sigmoid(log_snr)), sigma = sqrt(sigmoid(-log_snr)), exact at both ends."""
    return torch.exp(logsigmoid(log_snr) / 2), torch.exp(logsigmoid(-log_snr) / 2)


def variance_exploding(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = 1, sigma = exp(-log_snr / 2)."""
    return torch.ones_like(log_snr), torch.exp(-log_snr / 2)


def linear_interpolant(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = sigmoid(log_snr / 2), sigma = sigmoid(-log_snr / 2): alpha + sigma = 1, exact at both ends."""
    return torch.sigmoid(log_snr / 2), torch.sigmoid(-log_snr / 2)


def expand(coefficient: Tensor, x: Tensor) -> Tensor:
    """A float64 coefficient, scalar or one per example, ready to multiply x of shape (B, ...).

    A scalar stays on the host, where a kernel takes it as an argument; (B,) is cast once and moved to x.
    """
    if coefficient.ndim == 0:
        return coefficient
    return coefficient.to(device=x.device, dtype=x.dtype, non_blocking=True).view(-1, *(1,) * (x.ndim - 1))


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
