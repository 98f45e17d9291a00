"""Two interleaved half circles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.data.points import Points
from diffusion_fw.registry import register


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
