"""The sliced Wasserstein distance of samples to real data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.metrics.comparison import Measure, Numbers, SampleMetric
from diffusion_fw.metrics.sample_set import SampleSet
from diffusion_fw.noise import generator
from diffusion_fw.registry import PositiveInt, register

AT_ONCE = 64
"""Directions along which both sets are sorted at once."""


@register("metric", "sliced_wasserstein")
@dataclass(frozen=True)
class SlicedWasserstein(SampleMetric):
    """The root of the mean squared 2-Wasserstein distance of projections onto ``projections`` directions.

    Bonneel et al. 2015. The distance along a line is exact, by the quantiles of both sets, whatever their sizes. The
    directions are fixed, and orthogonal as long as there are dimensions: a shift by s has the distance |s| / sqrt(D).
    It has the unit of the features; points have it themselves, by features=identity. It is biased upwards: compare it
    with the floor.
    """

    numbers: ClassVar[dict[str, Literal["lower", "higher"]]] = {"sliced_wasserstein": "lower"}

    projections: PositiveInt = 128

    def against(self, real: SampleSet, device: torch.device) -> Measure:
        held = real.vectors.to(device).double()
        lines = directions(self.projections, held.shape[1]).to(device)

        def measure(generated: SampleSet) -> Numbers:
            x = generated.vectors.to(device).double()
            squares = [squared_wasserstein(x @ part.T, held @ part.T) for part in lines.split(AT_ONCE)]
            return {"sliced_wasserstein": math.sqrt(float(torch.cat(squares).mean()))}

        return measure


def directions(count: int, dimensions: int) -> Tensor:
    """float64 unit vectors (count, D): the axes of random rotations, one rotation after another."""
    random = generator(0)
    turns = math.ceil(count / dimensions)
    drawn = torch.randn(turns, dimensions, min(count, dimensions), generator=random, dtype=torch.float64)
    axes: Tensor = torch.linalg.qr(drawn).Q.transpose(1, 2).flatten(0, 1)
    return axes[:count]


def squared_wasserstein(x: Tensor, y: Tensor) -> Tensor:
    """W_2^2 (P,) of the values x (N, P) and y (M, P) of each column: int_0^1 (F^-1(u) - G^-1(u))^2 du."""
    n, m = len(x), len(y)
    # The quantile functions step at u = i / n and j / m; times n m these are whole numbers.
    steps = torch.cat([torch.arange(n) * m, torch.arange(m) * n]).unique()
    width = torch.diff(steps, append=torch.tensor([n * m])).double() / (n * m)
    first, second = ((steps // each).to(x.device) for each in (m, n))
    apart = x.sort(dim=0).values[first] - y.sort(dim=0).values[second]
    return width.to(x.device) @ apart.square()
