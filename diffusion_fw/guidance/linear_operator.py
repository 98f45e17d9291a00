"""What a linear measurement is: y = A x, and how its normal equations are solved."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


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
