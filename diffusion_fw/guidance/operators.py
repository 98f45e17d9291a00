"""Linear measurements y = A x for inverse problems, and how their normal equations are solved.

mask          some of the values (inpainting)
average_pool  means over square blocks (super-resolution)
matrix        any matrix, for small examples
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d


class LinearOperator(ABC):
    """A linear map of examples x (B, ...) to measurements y (B, ...); one example's y without B is broadcast."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def transpose(self, y: Tensor) -> Tensor:
        """A^T y."""

    @abstractmethod
    def solve(self, y: Tensor, prior: Tensor | float, noise: float) -> Tensor:
        """(prior A A^T + noise I)^+ y; prior a variance that broadcasts against y, noise a variance."""

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A^+ y = A^T (A A^T)^+ y."""
        return self.transpose(self.solve(y, 1.0, 0.0))


def reciprocal(value: Tensor) -> Tensor:
    """1 / value, and 0 where value is 0: the pseudo-inverse of a diagonal."""
    return torch.where(value == 0, 0.0, 1 / torch.where(value == 0, 1.0, value))


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


@dataclass(frozen=True)
class Matrix(LinearOperator):
    """y = A x for the flattened x: matrix (M, N) with N the number of values of an example of the given shape."""

    matrix: Tensor
    shape: tuple[int, ...]

    @functools.cached_property
    def decomposition(self) -> tuple[Tensor, Tensor]:
        """U (M, K) and the singular values (K,), those below rounding set to 0, in float64 (A = U S V^T)."""
        u, s, _ = torch.linalg.svd(self.matrix.double(), full_matrices=False)
        return u, torch.where(s > s.max() * max(self.matrix.shape) * torch.finfo(s.dtype).eps, s, 0.0)

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.to(x).T

    def transpose(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y)).unflatten(-1, self.shape)

    def solve(self, y: Tensor, prior: Tensor | float, noise: float) -> Tensor:
        u, s = (value.to(y) for value in self.decomposition)
        inside = y @ u
        solved = (inside * reciprocal(prior * s.square() + noise)) @ u.T
        # Outside the range of A only the noise is left; without noise that part is dropped.
        return solved + (y - inside @ u.T) / noise if noise > 0 else solved
