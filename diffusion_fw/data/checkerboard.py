"""The dark squares of a board."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.data.points import Points
from diffusion_fw.registry import NonNegative, register

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
