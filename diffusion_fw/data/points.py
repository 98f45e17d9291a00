"""What the toys share: points in the plane drawn from a formula."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from diffusion_fw.data.source import Data, InMemory
from diffusion_fw.noise import generator
from diffusion_fw.registry import NonNegative, NonNegativeInt, Range


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
