"""Means over square blocks, as measured in super-resolution."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import avg_pool2d

from diffusion_fw.guidance.linear_operator import LinearOperator


@dataclass(frozen=True)
class AveragePool(LinearOperator):
    """y = the means over size x size blocks of images x (B, C, H, W); A A^T = I / size^2."""

    size: int

    def __call__(self, x: Tensor) -> Tensor:
        return avg_pool2d(x, self.size)

    def transpose(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.size, -1).repeat_interleave(self.size, -2) / self.size**2

    def solve(self, y: Tensor, prior: Tensor | float, noise: float) -> Tensor:
        return y / (prior / self.size**2 + noise)
