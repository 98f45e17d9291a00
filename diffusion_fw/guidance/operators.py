"""Linear measurements y = A x for inverse problems.

    mask            y = some of the values of x                 inpainting
    average_pool    y = means over square blocks of an image    super-resolution
    channel_matrix  y = A x for the channels of each pixel      colourisation: (1/3, 1/3, 1/3) measures gray
    matrix          y = A x for the flattened x                 any A, for small examples

Guidance by a measurement needs A, A^T and the solution of the normal equations, (prior A A^T + noise I)^+ y.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from diffusion_fw.guidance.guidance import Guidance
from diffusion_fw.npz import read_npz
from diffusion_fw.registry import ConfigError, Runtime


class LinearOperator(ABC):
    """A linear map from examples x (B, ...) to measurements y (B, ...); y of one example, without B, is broadcast."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def transpose(self, y: Tensor) -> Tensor:
        """A^T y."""

    @abstractmethod
    def solve(self, y: Tensor, prior: Tensor | float, noise: float) -> Tensor:
        """(prior A A^T + noise I)^+ y for two variances; prior broadcasts against y."""

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


class Decomposition(NamedTuple):
    """U (M, K) and the singular values s (K,) of A = U S V^T, those below rounding set to 0; float64."""

    u: Tensor
    s: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Decomposition:
        """The decomposition of a matrix (M, N)."""
        u, s, _ = torch.linalg.svd(matrix.double(), full_matrices=False)
        return cls(u, torch.where(s > s.max() * max(matrix.shape) * torch.finfo(s.dtype).eps, s, 0.0))

    def solve(self, y: Tensor, prior: Tensor | float, noise: float) -> Tensor:
        """(prior A A^T + noise I)^+ y along the last dimension of y."""
        u, s = self.u.to(y), self.s.to(y)
        inside = y @ u
        solved = (inside * reciprocal(prior * s.square() + noise)) @ u.T
        # Outside the range of A there is only noise; without noise that part is dropped.
        return solved + (y - inside @ u.T) / noise if noise > 0 else solved


@dataclass(frozen=True)
class Matrix(LinearOperator):
    """y = A x for the flattened x: matrix (M, N) with N the number of values of an example of the given shape."""

    matrix: Tensor
    shape: tuple[int, ...]

    @functools.cached_property
    def decomposition(self) -> Decomposition:
        return Decomposition.of(self.matrix)

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.to(x).mT

    def transpose(self, y: Tensor) -> Tensor:
        result: Tensor = (y @ self.matrix.to(y)).unflatten(-1, self.shape)
        return result

    def solve(self, y: Tensor, prior: Tensor | float, noise: float) -> Tensor:
        return self.decomposition.solve(y, prior, noise)


@dataclass(frozen=True)
class ChannelMatrix(LinearOperator):
    """y = A x for the channels of each pixel: matrix (K, C), images x (B, C, H, W), y (B, K, H, W).

    The gray image is the mean over the channels, A = (1/3, 1/3, 1/3). What it determines is the projection on the first
    channel of Song et al. 2021, appendix I.3, whose orthonormal matrix has gray as its first column.
    """

    matrix: Tensor

    @functools.cached_property
    def decomposition(self) -> Decomposition:
        return Decomposition.of(self.matrix)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.einsum("kc,...chw->...khw", self.matrix.to(x), x)

    def transpose(self, y: Tensor) -> Tensor:
        return torch.einsum("kc,...khw->...chw", self.matrix.to(y), y)

    def solve(self, y: Tensor, prior: Tensor | float, noise: float) -> Tensor:
        prior = prior.movedim(-3, -1) if isinstance(prior, Tensor) and prior.ndim else prior
        return self.decomposition.solve(y.movedim(-3, -1), prior, noise).movedim(-1, -3)


OPERATORS: dict[str, Callable[[Tensor, tuple[int, ...]], LinearOperator]] = {
    "mask": lambda array, shape: Mask(array),
    "average_pool": lambda array, shape: AveragePool(int(array)),
    "matrix": Matrix,
    "channel_matrix": lambda array, shape: ChannelMatrix(array),
}
"""The operators of a file, from an array and the shape of an example."""

LARGEST = 1 << 30
"""Bytes of a file's arrays, unless the file itself is larger: a few kilobytes can unpack to any number."""


def read_measurement(path: str, shape: tuple[int, ...]) -> tuple[LinearOperator, Tensor]:
    """The operator and the measurement y of one example of this shape, from an npz file.

    The file holds y as ``measurement``, float values as the model sees them or uint8 pixels, and the operator as
    ``mask``, ``average_pool``, ``matrix`` or ``channel_matrix``. ConfigError for another file, and for another shape.
    """
    arrays = read_npz(path, LARGEST)
    names = sorted(arrays.keys() & OPERATORS.keys())
    if len(names) != 1 or arrays.keys() != {"measurement", *names}:
        raise ConfigError(
            f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}; it must hold measurement and one of "
            f"{', '.join(OPERATORS)}"
        )
    (name,), y = names, arrays["measurement"]
    y = y / 127.5 - 1 if y.dtype == torch.uint8 else y.float()
    try:
        operator = OPERATORS[name](arrays[name], shape)
        measured, example = operator(torch.zeros(1, *shape))[0], operator.transpose(y[None])[0]
        fits = measured.shape == y.shape and example.shape == shape
    except (RuntimeError, ValueError):
        fits = False
    if not fits:
        raise ConfigError(
            f"{path}: {name} {tuple(arrays[name].shape)} and measurement {tuple(y.shape)} do not fit examples of "
            f"shape {shape}"
        )
    return operator, y


@dataclass(frozen=True)
class Measured(Guidance):
    """A guidance by a measurement y = A x_0: operator and measurement in Python, or an npz ``file`` with both.

    measurement: of one example's shape, or (B, ...). ConfigError where it is missing or does not fit.
    """

    operator: Runtime[LinearOperator | None] = None
    measurement: Runtime[Tensor | None] = None
    shape: Runtime[tuple[int, ...] | None] = None
    file: str | None = None

    def __post_init__(self) -> None:
        # A bad file is refused when the guidance is built, not at the first evaluation.
        _ = self.known

    @functools.cached_property
    def known(self) -> tuple[LinearOperator, Tensor]:
        """A and y."""
        if self.operator is not None and self.measurement is not None:
            return self.operator, self.measurement
        key = f"guidance.{type(self).__name__.lower()}.file"
        if self.file is None or self.shape is None:
            raise ConfigError(
                f"it needs a measurement; give {key}=FILE.npz, which holds measurement and one of "
                f"{', '.join(OPERATORS)}, or in Python operator=... and measurement=..."
            )
        try:
            return read_measurement(self.file, self.shape)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from None
