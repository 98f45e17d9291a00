"""NCSN's geometric table of noise levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_fw.process.geometric import GeometricNoise
from diffusion_fw.process.level import variance_exploding
from diffusion_fw.process.schedule import DiscreteSchedule, TableLength
from diffusion_fw.registry import register


@register("schedule", "ncsn")
@dataclass(frozen=True)
class NCSN(GeometricNoise, DiscreteSchedule):
    """alpha = 1, sigma_k = sigma_min (sigma_max / sigma_min)^((k - 1) / (L - 1)), k = 1 .. L = num_steps.

    Song & Ermon 2019, section 4.2, who count from the largest, with L = 10 from 1 to 0.01; the defaults are those of
    Song & Ermon 2020 (NCSNv2) for CIFAR-10. sigma_max=auto is the largest distance between two training examples.
    """

    num_steps: TableLength = 232

    path: ClassVar[Callable[[Tensor], tuple[Tensor, Tensor]]] = staticmethod(variance_exploding)

    def log_snrs(self) -> Tensor:
        smallest, largest = self.log_sigmas
        return -2 * torch.linspace(largest, smallest, self.num_steps, dtype=torch.float64).flip(0)
