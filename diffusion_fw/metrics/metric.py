"""What a metric is: a number about a trained model, with what one must know to believe it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from diffusion_fw.data.dataset import Data
from diffusion_fw.denoiser import Denoiser
from diffusion_fw.process.variance import Variance


@dataclass(frozen=True)
class Subject:
    """The model that a metric is asked about: its denoiser as it samples, guidance included, and its data."""

    denoiser: Denoiser
    variance: Variance
    data: Data
    samples: Callable[[], Iterator[tuple[Sequence[int], Tensor]]]
    """Draws the metric's samples in chunks: (indices, examples as the data hold them)."""
    num_classes: int
    """Of a model of labels, otherwise 0."""
    weights: str
    device: torch.device
    seed: int
    batch_size: int
    folder: Path


@dataclass(frozen=True)
class Measurement:
    """A metric's name and value, what goes beside it into evaluation.json, and the rows of the printed table."""

    name: str
    value: float
    record: dict[str, Any]
    rows: dict[str, str]
    pictures: list[Path] = field(default_factory=list)


class Metric(Protocol):
    """What `python evaluate.py metric=...` chooses from; one of samples is also tracked during training."""

    of_samples: ClassVar[bool]
    num_samples: int

    def evaluate(self, subject: Subject) -> Measurement:
        """The metric of a model; ConfigError where it has no meaning for it."""
        ...
