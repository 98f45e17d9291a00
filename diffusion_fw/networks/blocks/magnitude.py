"""Layers and sums that keep the magnitude, the root mean square, of activations at 1 (Karras et al. 2024b)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

EPSILON = 1e-4
SILU_RMS = 0.596
"""Of silu(x) for x ~ N(0, 1)."""


def normalize(x: Tensor, dims: tuple[int, ...] | None = None) -> Tensor:
    """x / (1e-4 + rms), with the root mean square over ``dims``, by default all but the first."""
    dims = tuple(range(1, x.dim())) if dims is None else dims
    norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.float32)
    rms: Tensor = norm / math.sqrt(math.prod([x.shape[dim] for dim in dims]))
    return x / (EPSILON + rms).to(x.dtype)


def silu(x: Tensor) -> Tensor:
    """silu(x) / 0.596. Equation 81."""
    return nn.functional.silu(x) / SILU_RMS


def mix(a: Tensor, b: Tensor, share: float) -> Tensor:
    """((1 - share) a + share b) / sqrt((1 - share)^2 + share^2), for independent a and b. Equation 88."""
    length = math.hypot(1 - share, share)
    return a * ((1 - share) / length) + b * (share / length)


def concatenate(a: Tensor, b: Tensor) -> Tensor:
    """[a, b] along the channels, each scaled so that both contribute equally. Equation 103 with t = 1/2."""
    total = (a.shape[1] + b.shape[1]) / 2
    return torch.cat([a * math.sqrt(total / a.shape[1]), b * math.sqrt(total / b.shape[1])], dim=1)


class Fourier(nn.Module):
    """sqrt(2) cos(f_k label + p_k), with random f_k ~ N(0, (2 pi)^2) and p_k uniform in [0, 2 pi). Equation 75.

    label (B,) -> (B, channels), float32. The random numbers are part of the weights.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, label: Tensor) -> Tensor:
        return math.sqrt(2) * (label.float()[:, None] * self.frequencies + self.phases).cos()


class Weight(nn.Module):
    """The weight of a layer without bias, of which only the direction matters: each output has unit length."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))

    def scaled(self, gain: Tensor | float) -> Tensor:
        """gain w / |w| for each output. Equation 47."""
        return normalize(self.weight) * (gain / math.sqrt(self.weight[0].numel()))

    def force(self) -> None:
        """Normalize the weight in place, so that it does not grow and its learning rate does not fall. Equation 66.

        Autograd is not told, so that two forward passes may come before a backward pass: the direction is the same.
        """
        self.weight.data.copy_(normalize(self.weight.data))


class Linear(Weight):
    """W x, for x (B, inputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(outputs, inputs)

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        return nn.functional.linear(x, self.scaled(gain).to(x.dtype))


class Conv(Weight):
    """W * x, for x (B, inputs, H, W), with an odd ``kernel`` and zeros around."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(outputs, inputs, kernel, kernel)
        self.padding = kernel // 2

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        return nn.functional.conv2d(x, self.scaled(gain).to(x.dtype), padding=self.padding)
