"""No distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from diffusion_fw.metrics.metric import Measurement, Subject, TrackedMetric
from diffusion_fw.registry import PositiveInt, register


@register("metric", "none")
@dataclass(frozen=True)
class NoMetric(TrackedMetric):
    """Measures nothing, for data to which no distance applies, such as a single image.

    An evaluation during training draws ``num_samples`` samples for the pictures and measures the held-out loss.
    best.ckpt, the result of the run, sweeps and searches then follow that loss, which compares only runs of one
    objective, weighting, parameterization and schedule. evaluate.py draws the samples into a picture.
    """

    num_samples: PositiveInt = 64

    measures: ClassVar[bool] = False
    label = "held-out loss"

    def name(self, weights: str) -> str:
        """The name of the held-out loss."""
        return f"heldout/loss/{weights}"

    def reset(self) -> None:
        """There is nothing to forget."""

    def update(self, generated: Tensor) -> None:
        """Nothing is added."""

    def compute(self) -> float:
        """NaN."""
        return math.nan

    def floor(self) -> float:
        """NaN."""
        return math.nan

    def evaluate(self, subject: Subject) -> Measurement:
        """A picture of the samples."""
        import torch

        from diffusion_fw.pictures.view import view_for

        samples = torch.cat([examples.cpu() for _, examples in subject.samples()])
        path = view_for(subject.data.shape, subject.data.bounds).samples(subject.folder / "samples.png", samples[:256])
        return Measurement(f"none/{subject.weights}", math.nan, self.description(), {}, [path])
