"""Toy data in the plane: x = s + noise z, z ~ N(0, I), s on a shape of zero mean and about unit standard deviation.

moons         s ~ (cos u, sin u) or (1 - cos u, 1/2 - sin u),  u ~ U[0, pi],  centred and divided by its deviation
checkerboard  s ~ U(the dark squares of a 4x4 board over [-sqrt(3), sqrt(3)]^2)
spiral        s = +-r (cos w, sin w),  r = 2 sqrt(u),  w = 2 pi turns sqrt(u),  u ~ U[0, 1]
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from diffusion_fw.data.dataset import Data, InMemory
from diffusion_fw.noise import generator
from diffusion_fw.registry import NonNegative, NonNegativeInt, Positive, Range, register


@dataclass(frozen=True)
class Points(Data):
    """``num_examples`` points x = s + noise z in each split, z ~ N(0, I).

    Both splits are drawn from the seed, independently of each other: the same seed gives the same points.
    """

    num_examples: Annotated[int, Range(1, 10_000_000)] = 10_000
    noise: NonNegative = 0.05
    seed: NonNegativeInt = 0

    default_features: ClassVar[str] = "identity"
    value_range: ClassVar[tuple[float, float] | None] = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (2,)

    @abstractmethod
    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """(count, 2) float64 points s of the shape, and (count,) int64 labels of its parts, or None if it has none."""

    def load(self, split: str) -> InMemory:
        random = generator(self.seed, int(split == "test"))
        points, labels = self.draw(self.num_examples, random)
        blurred = points + self.noise * torch.randn(points.shape, generator=random, dtype=torch.float64)
        return InMemory(blurred.float(), labels)


@register("data", "moons")
@dataclass(frozen=True)
class Moons(Points):
    """Two interleaved half circles, (cos u, sin u) and (1 - cos u, 1/2 - sin u), u uniform in [0, pi].

    The points are centred at their mean (1/2, 1/4) and divided by the root of the mean variance of the two coordinates,
    3/4 and 1/2 - (2/pi)^2 + (2/pi - 1/4)^2.
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        return ("upper", "lower")

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
        labels = torch.randint(0, 2, (count,), generator=random)
        angle = math.pi * torch.rand(count, generator=random, dtype=torch.float64)
        upper = torch.stack([angle.cos(), angle.sin()], dim=1)
        lower = torch.tensor([1.0, 0.5]) - upper
        points = torch.where(labels.unsqueeze(1) == 0, upper, lower) - torch.tensor([0.5, 0.25])
        height = 2 / math.pi
        variance = (3 / 4 + 1 / 2 - height**2 + (height - 1 / 4) ** 2) / 2
        return points / math.sqrt(variance), labels


SQUARES = 4


@register("data", "checkerboard")
@dataclass(frozen=True)
class Checkerboard(Points):
    """Uniform on the eight dark squares of a 4x4 board over [-sqrt(3), sqrt(3)]^2.

    Each coordinate alone is uniform, with variance 1. ``noise`` is 0 by default, so that the edges are sharp.
    """

    noise: NonNegative = 0.0

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
        column = torch.randint(0, SQUARES, (count,), generator=random)
        row = 2 * torch.randint(0, SQUARES // 2, (count,), generator=random) + column % 2
        inside = torch.rand(count, 2, generator=random, dtype=torch.float64)
        position = (torch.stack([column, row], dim=1) + inside) / SQUARES
        return math.sqrt(3) * (2 * position - 1), None


@register("data", "spiral")
@dataclass(frozen=True)
class Spiral(Points):
    """Two arms of Archimedes' spiral: s = +-r (cos w, sin w), r = 2 sqrt(u), w = 2 pi turns sqrt(u), u ~ U[0, 1].

    The square root spreads the points almost evenly along the arms. The mean variance of the two coordinates is
    E[r^2] / 2 = 1.
    """

    turns: Positive = 1.5

    @property
    def class_names(self) -> tuple[str, ...]:
        return ("first", "second")

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
        labels = torch.randint(0, 2, (count,), generator=random)
        along = torch.rand(count, generator=random, dtype=torch.float64).sqrt()
        angle = 2 * math.pi * self.turns * along + math.pi * labels
        return (2 * along).unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], dim=1), labels
