"""What a weighting is: how much each noise level counts in the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Parameterization


class Weighting(ABC):
    """A weight of the squared error, stated in the space in which its paper states it."""

    space: ClassVar[Literal["native", "eps", "x0"]]
    """Whose squared error the weight multiplies: the network's own output F, eps, or x_0."""

    @abstractmethod
    def __call__(self, level: NoiseLevel) -> Tensor:
        """The weight at each level, float64, of the shape of level.t."""


def output_weight(weighting: Weighting, parameterization: Parameterization, level: NoiseLevel) -> Tensor:
    """The weight in the space of F: w_F = w_x0 (sigma / D)^2 = w_eps (alpha / D)^2, since x_0 and eps solve F."""
    weight = weighting(level)
    if weighting.space == "native":
        return weight
    numerator = level.sigma if weighting.space == "x0" else level.alpha
    return weight * (numerator / parameterization.determinant(level)).square()
