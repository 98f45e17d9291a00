"""Two arms that wind around the centre."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.data.points import Points
from diffusion_fw.registry import Positive, register


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
