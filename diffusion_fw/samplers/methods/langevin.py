"""Langevin dynamics at a fixed noise level."""

from __future__ import annotations

from torch import Tensor


def langevin_step(x: Tensor, eps: Tensor, z: Tensor, sigma: float, size: float | Tensor) -> Tensor:
    """x + size score + sqrt(2 size) z with the score -eps / sigma; size is a number or broadcasts against x."""
    return x - size / sigma * eps + (2 * size) ** 0.5 * z
