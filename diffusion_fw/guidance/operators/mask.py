"""Some of the values, as measured in inpainting."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.guidance.linear_operator import LinearOperator


@dataclass(frozen=True)
class Mask(LinearOperator):
    """y = x where known, 0 elsewhere; known is boolean and broadcasts against x."""

    known: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(self.known.to(device=x.device, dtype=torch.bool), x, 0.0)

    def transpose(self, y: Tensor) -> Tensor:
        return self(y)

    def solve(self, y: Tensor, prior: Tensor | float, noise: float) -> Tensor:
        return self(y) / (prior + noise)
