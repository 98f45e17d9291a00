"""The energy distance of samples to real data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.metrics.comparison import Measure, Numbers, SampleMetric
from diffusion_fw.metrics.sample_set import SampleSet
from diffusion_fw.registry import register

ROWS = 1000
"""Of the matrix of distances that are held at once."""


@register("metric", "energy_distance")
@dataclass(frozen=True)
class EnergyDistance(SampleMetric):
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, which is 0 for equal distributions alone (Szekely & Rizzo 2004).

    From all pairs, without bias: a perfect model has the mean 0, and single values may be negative. It has the unit of
    the features; points have it themselves, by features=identity.
    """

    numbers: ClassVar[dict[str, Literal["lower", "higher"]]] = {"energy_distance": "lower"}

    def against(self, real: SampleSet, device: torch.device) -> Measure:
        held = real.vectors.to(device).double()
        within = total_distance(held, held) / (len(held) * (len(held) - 1))

        def measure(generated: SampleSet) -> Numbers:
            x = generated.vectors.to(device).double()
            ours = total_distance(x, x) / (len(x) * (len(x) - 1))
            return {"energy_distance": 2 * total_distance(x, held) / (len(x) * len(held)) - ours - within}

        return measure


def total_distance(x: Tensor, y: Tensor) -> float:
    """The sum of |x_i - y_j| over all pairs."""
    return sum(float(torch.cdist(rows, y).sum()) for rows in x.split(ROWS))
