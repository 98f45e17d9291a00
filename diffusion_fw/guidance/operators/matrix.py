"""Any linear measurement of small examples."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.guidance.linear_operator import LinearOperator, reciprocal


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
