"""Fidelity and diversity apart: precision and recall, density and coverage.

Both take the real examples' manifold as the union of balls around them that reach to the k-th nearest neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from diffusion_fw.metrics.comparison import Measure, Numbers, SampleMetric
from diffusion_fw.metrics.neighbours import hits, radii
from diffusion_fw.metrics.sample_set import SampleSet
from diffusion_fw.registry import ConfigError, PositiveInt, register


@register("metric", "precision_recall")
@dataclass(frozen=True)
class PrecisionRecall(SampleMetric):
    """The part of the samples within the real examples' manifold, and of the real examples within that of the samples.

    Kynkäänniemi et al. 2019, equation 2: a ball around each example reaches to its ``k``-th nearest neighbour in the
    same set. Both depend on the numbers of samples and of real examples, and an outlier's large ball raises them:
    density and coverage are steadier. Raises ConfigError unless both sets have more than k examples.
    """

    numbers: ClassVar[dict[str, Literal["lower", "higher"]]] = {"precision": "higher", "recall": "higher"}

    k: PositiveInt = 3

    def against(self, real: SampleSet, device: torch.device) -> Measure:
        enough(self.k, real, "real examples of the reference")
        reach = radii(real.vectors, self.k, device)

        def measure(generated: SampleSet) -> Numbers:
            enough(self.k, generated, "samples (metric.num_samples)")
            precise = hits(generated.vectors, real.vectors, reach, device).of_points > 0
            recalled = hits(real.vectors, generated.vectors, radii(generated.vectors, self.k, device), device).of_points
            return {"precision": float(precise.double().mean()), "recall": float((recalled > 0).double().mean())}

        return measure


@register("metric", "density_coverage")
@dataclass(frozen=True)
class DensityCoverage(SampleMetric):
    """How many of the real examples' balls hold a sample, and the part of the balls that hold at least one.

    Naeem et al. 2020, equations 4 and 6: density is the mean number of balls that hold a sample, divided by ``k``, and
    is 1 for real examples, or more for samples at the densest places. coverage is at most 1, and 1 - 2^-k for many real
    examples. A ball around each real example reaches to its k-th nearest neighbour. Raises ConfigError unless there are
    more than k real examples.
    """

    numbers: ClassVar[dict[str, Literal["lower", "higher"]]] = {"density": "higher", "coverage": "higher"}

    k: PositiveInt = 5

    def against(self, real: SampleSet, device: torch.device) -> Measure:
        enough(self.k, real, "real examples of the reference")
        reach = radii(real.vectors, self.k, device)

        def measure(generated: SampleSet) -> Numbers:
            found = hits(generated.vectors, real.vectors, reach, device)
            density = float(found.of_points.double().mean()) / self.k
            return {"density": density, "coverage": float((found.of_balls > 0).double().mean())}

        return measure


def enough(k: int, examples: SampleSet, kind: str) -> None:
    """ConfigError unless each example has k others."""
    if len(examples) <= k:
        raise ConfigError(f"metric.k={k}: must be below the number of {kind}, {len(examples)}")
