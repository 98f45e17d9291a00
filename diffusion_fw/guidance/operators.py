"""Linear measurements y = A x for inverse problems.

    mask            y = some of the values of x                 inpainting
    average_pool    y = means over square blocks of an image    super-resolution
    blur            y = an image under a Gaussian kernel        deblurring
    grayscale       y = the luma of a colour image              colourisation
    channel_matrix  y = A x for the channels of each pixel      colourisation by other weights
    matrix          y = A x for the flattened x                 any A, for small examples

Guidance by a measurement needs A, A^T and the solution of the normal equations, (prior A A^T + noise I)^+ y. What a
method gains is seen beside ``baseline``, which takes no model.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate


class LinearOperator(ABC):
    """A linear map from examples x (B, ...) to measurements y (B, ...); y of one example, without B, is broadcast."""

    plain: ClassVar[str] = "pseudo-inverse"
    """The name of ``baseline``."""

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

    def as_example(self, y: Tensor) -> Tensor:
        """Measurements (B, ...) in the shape of examples, to look at."""
        return self.pseudo_inverse(y)

    def baseline(self, y: Tensor) -> Tensor:
        """Examples (B, ...) that measurements (B, ...) suggest without a model of the data."""
        return self.as_example(y)


def reciprocal(value: Tensor) -> Tensor:
    """1 / value, and 0 where value is 0: the pseudo-inverse of a diagonal."""
    return torch.where(value == 0, 0.0, 1 / torch.where(value == 0, 1.0, value))


@dataclass(frozen=True)
class Mask(LinearOperator):
    """y = x where known, 0 elsewhere; known is boolean and broadcasts against x."""

    known: Tensor

    plain: ClassVar[str] = "mean of the known"

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(self.known.to(device=x.device, dtype=torch.bool), x, 0.0)

    def transpose(self, y: Tensor) -> Tensor:
        return self(y)

    def solve(self, y: Tensor, prior: Tensor | float, noise: float) -> Tensor:
        return self(y) / (prior + noise)

    def baseline(self, y: Tensor) -> Tensor:
        """The mean of the known values of an example, of each channel for images, where they are unknown."""
        known = self.known.to(device=y.device, dtype=torch.bool).expand_as(y)
        axes = tuple(range(2, y.ndim)) or (1,)
        mean = self(y).sum(axes, keepdim=True) / known.sum(axes, keepdim=True).clamp(min=1)
        return torch.where(known, y, mean)


@dataclass(frozen=True)
class AveragePool(LinearOperator):
    """y = the means over size x size blocks of images x (B, C, H, W); A A^T = I / size^2."""

    size: int

    plain: ClassVar[str] = "bicubic"

    def __call__(self, x: Tensor) -> Tensor:
        return avg_pool2d(x, self.size)

    def transpose(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.size, -1).repeat_interleave(self.size, -2) / self.size**2

    def solve(self, y: Tensor, prior: Tensor | float, noise: float) -> Tensor:
        return y / (prior / self.size**2 + noise)

    def baseline(self, y: Tensor) -> Tensor:
        """Bicubic interpolation."""
        return interpolate(y, scale_factor=self.size, mode="bicubic")


LARGEST_BLUR = 1000
"""In pixels: the standard deviation of a kernel."""


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def cosine_basis(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal basis of DCT-II (size, size): row k is sqrt((2 - [k = 0]) / n) cos(pi k (j + 1/2) / n)."""
    k = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi / size * k[:, None] * (k + 0.5)) * math.sqrt(2 / size)
    rows[0] = math.sqrt(1 / size)
    return rows.to(device=device, dtype=dtype)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def passed_by_blur(std: float, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The factor of each row of ``cosine_basis`` under a Gaussian kernel of this standard deviation, (size,)."""
    reach = math.ceil(9 * std)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-(offsets**2) / (2 * std**2))
    frequencies = math.pi / size * torch.arange(size, dtype=torch.float64)
    return (torch.cos(frequencies[:, None] * offsets) @ (kernel / kernel.sum())).to(device=device, dtype=dtype)


@dataclass(frozen=True)
class Blur(LinearOperator):
    """y = images x (B, C, H, W) under a Gaussian kernel of standard deviation ``std`` pixels, reflected at the edges.

    The kernel is that of whole pixels, exp(-j^2 / (2 std^2)) over its sum. With an image that continues as its mirror
    image beyond half a pixel from its outermost pixels, A = A^T is diagonal in the two-dimensional DCT-II, so that
    everything is exact. Frequencies of which less than ``least`` passes are set to 0: what a measurement of 8 bits says
    of them is rounding, which A^+ would amplify more than 1 / least times (as in DDRM, Kawar et al. 2022).
    """

    std: float
    least: float = 0.03

    plain: ClassVar[str] = "the blurred image"

    def __post_init__(self) -> None:
        if not 0 < self.std <= LARGEST_BLUR:
            raise ValueError(f"a blur of std={self.std}: must be in (0, {LARGEST_BLUR}]")

    def _scaled(self, x: Tensor, factors: Tensor) -> Tensor:
        """x with each of its cosines multiplied."""
        rows, columns = (cosine_basis(size, x.dtype, x.device) for size in x.shape[-2:])
        return rows.mT @ ((rows @ x @ columns.mT) * factors) @ columns

    def _passed(self, x: Tensor) -> Tensor:
        """The factor of each cosine (H, W)."""
        rows, columns = (passed_by_blur(self.std, size, x.dtype, x.device) for size in x.shape[-2:])
        passed = rows[:, None] * columns
        return torch.where(passed < self.least, 0.0, passed)

    def __call__(self, x: Tensor) -> Tensor:
        return self._scaled(x, self._passed(x))

    def transpose(self, y: Tensor) -> Tensor:
        return self(y)

    def solve(self, y: Tensor, prior: Tensor | float, noise: float) -> Tensor:
        variance = prior * self._passed(y).square() + noise
        return self._scaled(y, reciprocal(variance))

    def as_example(self, y: Tensor) -> Tensor:
        return y


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

    Where A = (1/3, 1/3, 1/3) measures the mean, what it determines is the projection on the first channel of Song et
    al. 2021, appendix I.3, whose orthonormal matrix has gray as its first column.
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


LUMA = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in ITU-R BT.601, by which Pillow, JPEG and most programs make an image gray."""


@dataclass(frozen=True)
class Grayscale(ChannelMatrix):
    """y = the luma of images x (B, 3, H, W), as one channel."""

    matrix: Tensor = field(default_factory=lambda: torch.tensor([LUMA], dtype=torch.float64))

    plain: ClassVar[str] = "the gray image"

    def as_example(self, y: Tensor) -> Tensor:
        """Gray in all channels, of which y is the luma."""
        return y.expand(*y.shape[:-3], self.matrix.shape[1], *y.shape[-2:])
