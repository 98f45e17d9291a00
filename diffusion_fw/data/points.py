"""Toy data: points in the plane drawn from a formula.

moons         two interleaved half circles
checkerboard  the dark squares of a 4x4 board
spiral        two arms of Archimedes' spiral
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
    """num_examples points in each split, x = s + noise z, z ~ N(0, I), s a shape of about unit standard deviation.

    The splits are drawn independently from the seed, so the same seed gives the same points.
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
        """(count, 2) float64 points of the shape without noise, and (count,) int64 labels where it has parts."""

    def load(self, split: str) -> InMemory:
        random = generator(self.seed, int(split == "test"))
        points, labels = self.draw(self.num_examples, random)
        blurred = points + self.noise * torch.randn(points.shape, generator=random, dtype=torch.float64)
        return InMemory(blurred.float(), labels)


@register("data", "moons")
@dataclass(frozen=True)
class Moons(Points):
    """Two interleaved half circles, (cos u, sin u) and (1 - cos u, 1/2 - sin u), u uniform in [0, pi].

    The mean (1/2, 1/4) is removed, and the points are divided by the root of the mean variance of the two coordinates,
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

    Each coordinate is uniform by itself, with variance 1. noise is 0 unless asked for, so that edges are sharp.
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
    """Two arms of Archimedes' spiral, (r cos w, r sin w) and its mirror image through the centre, r proportional to w.

    w = 2 pi turns sqrt(u), u uniform in [0, 1], so that the points lie almost evenly along the arms; r = 2 sqrt(u)
    makes the mean variance of the two coordinates E[r^2] / 2 = 1.
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
