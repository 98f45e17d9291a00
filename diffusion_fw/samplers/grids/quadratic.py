"""DDIM's spacing with small steps at little noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.grid import Grid


@register("grid", "quadratic")
@dataclass(frozen=True)
class Quadratic(Grid):
    """DDPM's indices floor((j / (N - 1))^2 0.8 T), j = N - 1 .. 0, on a table; T = 1 / t_min on a continuous schedule.

    Song et al. 2020 (DDIM), appendix D.2, "quadratic". Where squares fall on one index (S = 50, T = 1000: twice on 0),
    the paper's code asks twice for one time; here the later ones move up to the next free index.
    """

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        rows = round(1 / schedule.t_min)
        root = torch.linspace((0.8 * rows) ** 0.5, 0, steps, dtype=torch.float64).flip(0)
        # 800 is the square of a root that float64 rounds down.
        index = (root.square() + 1e-6).floor()
        rank = torch.arange(steps)
        index = (index - rank).cummax(0).values + rank
        return (index.flip(0) + 1) / rows
