"""Power-function averages of the weights as densities over training time, and their linear combinations.

The average of relative length std taken at time t weighs the weights of time t' by

    p(t') = (gamma + 1) t'^gamma / t^(gamma + 1),   0 <= t' <= t

with the standard deviation std t (Karras et al. 2024b, "Analyzing and Improving the Training Dynamics of Diffusion
Models", section 3.1). A linear combination of averages has the same combination of densities.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from diffusion_fw.registry import Range

LONGEST = 1 / math.sqrt(12)
"""The largest relative standard deviation, that of equal weights (gamma = 0)."""

RelativeStd = Annotated[float, Range(1e-3, LONGEST)]


def relative_std(gamma: float) -> float:
    """std = sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))), that of the distribution Beta(gamma + 1, 1)."""
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


@functools.cache
def exponent(std: float) -> float:
    """gamma >= 0 of a relative standard deviation, by bisection below the bound gamma < 1 / std."""
    low, high = 0.0, 1 / std
    for _ in range(200):
        middle = (low + high) / 2
        if relative_std(middle) > std:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True)
class Profile:
    """The density of one average: its relative standard deviation and the time, in steps, at which it was taken."""

    std: float
    time: float

    @property
    def gamma(self) -> float:
        return exponent(self.std)

    def density(self, t: Tensor) -> Tensor:
        """p(t') at float64 times t'; 0 after ``time``."""
        density = (self.gamma + 1) / self.time * (t / self.time) ** self.gamma
        return torch.where(t <= self.time, density, 0.0)


def inner(first: Profile, second: Profile) -> float:
    """The integral of the product of two densities (Karras et al. 2024b, appendix C).

    (g_1 + 1)(g_2 + 1) / (g_1 + g_2 + 1) (t_1 / t_2)^g_2 / t_2 for t_1 <= t_2, a form that avoids overflow.
    """
    early, late = sorted((first, second), key=lambda profile: profile.time)
    scale = (early.gamma + 1) * (late.gamma + 1) / (early.gamma + late.gamma + 1)
    return float(scale * (early.time / late.time) ** late.gamma / late.time)


@dataclass(frozen=True)
class Fit:
    """The combination of ``profiles`` nearest to ``target``; residual is ||p - sum x_i p_i|| / ||p||."""

    target: Profile
    profiles: tuple[Profile, ...]
    coefficients: tuple[float, ...]
    residual: float

    def density(self, t: Tensor) -> Tensor:
        """The density of the combination."""
        terms = zip(self.coefficients, self.profiles, strict=True)
        return torch.stack([x * profile.density(t) for x, profile in terms]).sum(0)


def fit(target: Profile, profiles: Sequence[Profile]) -> Fit:
    """Least squares between densities: A x = b with inner products A and b (appendix C), subject to sum x = 1.

    The constraint, which is not in the paper, preserves what all averages have in common. In float64; directions below
    the rounding error are left out.
    """
    gram = torch.tensor([[inner(a, b) for b in profiles] for a in profiles], dtype=torch.float64)
    right = torch.tensor([inner(a, target) for a in profiles], dtype=torch.float64)
    # x = start + basis y sums to 1 for any y: start has 1 at the last profile, and each column of basis sums to 0.
    count = len(profiles)
    start = torch.zeros(count, dtype=torch.float64)
    start[-1] = 1
    basis = torch.cat([torch.eye(count - 1, dtype=torch.float64), -torch.ones(1, count - 1, dtype=torch.float64)])
    reduced, target_side = basis.T @ gram @ basis, basis.T @ (right - gram @ start)
    scale = reduced.diagonal().clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
    solution = torch.linalg.lstsq(scale[:, None] * reduced * scale, (scale * target_side)[:, None], driver="gelsd")
    x = start + basis @ (scale * solution.solution[:, 0])
    whole = inner(target, target)
    square = whole - 2 * float(x @ right) + float(x @ gram @ x)
    return Fit(target, tuple(profiles), tuple(x.tolist()), math.sqrt(max(0.0, square) / whole))
