"""What the network regresses: F = a x_0 + b eps, and how x_0 and eps are solved from x_t and F."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel, combine, expand


@dataclass(frozen=True)
class Prediction:
    """Both ends of the path as seen from x_t = alpha x0 + sigma eps, and the raw variance if learned; each like x_t."""

    x0: Tensor
    eps: Tensor
    variance_logit: Tensor | None = None


class Parameterization(ABC):
    """F = a x_0 + b eps; with D = alpha b - sigma a, x_0 = (b x_t - sigma F) / D and eps = (alpha F - a x_t) / D."""

    @abstractmethod
    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(a, b), float64, of the shape of level.t: all that a parameterization has to define."""

    def input(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """c_in, which scales x_t before the network, and the time label: by default 1 and 1000 t - 1.

        The label is DDPM's index for num_steps = 1000; any other number of steps is mapped to the same range.
        """
        return torch.ones_like(level.t), 1000 * level.t - 1

    def determinant(self, level: NoiseLevel) -> Tensor:
        """D = alpha b - sigma a: where it is 0, F does not determine x_0 and eps."""
        a, b = self.coefficients(level)
        return level.alpha * b - level.sigma * a

    def target(self, level: NoiseLevel, x0: Tensor, eps: Tensor) -> Tensor:
        """F = a x_0 + b eps."""
        a, b = self.coefficients(level)
        return expand(a, x0) * x0 + expand(b, x0) * eps

    def inverse(self, level: NoiseLevel) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(p, q, r, s) with x_0 = p x_t + q F and eps = r x_t + s F: (b, -sigma, -a, alpha) / D."""
        a, b = self.coefficients(level)
        scale = 1 / (level.alpha * b - level.sigma * a)
        return b * scale, -level.sigma * scale, -a * scale, level.alpha * scale

    def solve(self, level: NoiseLevel, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0, eps) from x_t and the network's F."""
        p, q, r, s = (expand(value, x) for value in self.inverse(level))
        return combine(p, x, q, output), combine(r, x, s, output)
