"""The bases of all metrics: a number about a trained model, with what is needed to judge it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.conditions.conditioner import Cond, Conditioner
from diffusion_fw.data.dataset import Data, Examples, to_model
from diffusion_fw.denoiser import Denoiser, NetworkDenoiser
from diffusion_fw.metrics.features.extractor import FeatureExtractor
from diffusion_fw.metrics.sample_set import Part, SampleSet, seen
from diffusion_fw.objectives.objective import Objective
from diffusion_fw.objectives.time_sampler import TimeSampler
from diffusion_fw.process.variance import Variance


@dataclass(frozen=True)
class Training:
    """What a model was trained with, for metrics that measure its loss."""

    network: NetworkDenoiser
    """The model without guidance."""
    objective: Objective
    time_sampler: TimeSampler
    sections: Mapping[str, Any]
    """The sections of the config on which a loss depends."""


@dataclass(frozen=True)
class Subject:
    """The model that a metric evaluates: its denoiser as it samples, with guidance, and its data."""

    denoiser: Denoiser
    variance: Variance
    data: Data
    samples: Callable[[], Iterator[tuple[Sequence[int], Tensor]]]
    """Draws the metric's ``num_samples`` samples in chunks: (indices, examples as the data hold them)."""
    num_classes: int
    """Of a model that takes labels, otherwise 0."""
    weights: str
    """Which weights of the checkpoint are used: "ema", "raw", ..."""
    device: torch.device
    seed: int
    batch_size: int
    folder: Path
    """Where pictures go."""
    class_of: Callable[[Sequence[int]], Tensor | None] = lambda indices: None
    """The classes that these samples were asked to have; None for a model that takes no labels."""
    conditioner: Conditioner | None = None
    """What the model is told; None stands for its class alone, if it takes labels."""
    training: Callable[[], Training] | None = None
    """What the model was trained with; None for one that no checkpoint describes."""
    collect: Callable[[int, frozenset[Part], FeatureExtractor | None], SampleSet] | None = None
    """The first ``count`` samples as a set, from the one pass over the samples that all metrics share."""

    def told(self, examples: Examples, indices: Sequence[int]) -> tuple[Tensor, Cond]:
        """These held-out examples x_0 (N, ...), and what the model is told of them, both on the host."""
        conditioner = self.conditioner or Conditioner(num_classes=self.num_classes)
        values, told = conditioner.annotated(examples, self.data, "test").__getitems__(indices)
        x0 = to_model(values)
        return x0, conditioner.whole(x0, told, conditioner.seeded(self.seed, indices))

    def sample_set(self, count: int, takes: frozenset[Part], features: FeatureExtractor | None) -> SampleSet:
        """The first ``count`` samples with the parts that a metric takes; drawn for it alone without ``collect``."""
        from tqdm import tqdm

        if self.collect is not None:
            return self.collect(count, takes, features)
        parts: list[SampleSet] = []
        with tqdm(total=count, desc="sampling") as bar:
            for indices, examples in self.samples():
                parts.append(seen(features, takes, examples, self.class_of(indices), self.device))
                bar.update(len(indices))
        return SampleSet.joined(parts)[:count]


@dataclass(frozen=True)
class Measurement:
    """The name and value of a metric, the entries of evaluation.json, and the rows of the printed table."""

    name: str
    value: float
    record: dict[str, Any]
    rows: dict[str, str]
    pictures: list[Path] = field(default_factory=list)
    better: Literal["lower", "higher"] = "lower"
    floor: float | None = None
    """What a perfect model is expected to reach."""
    interval: tuple[float, float] | None = None
    """A 95% confidence interval of the value."""
    partial: tuple[int, float] | None = None
    """(n, the value of the first n samples): what a check measures again at a fraction of the cost."""
    further: Sequence[Measurement] = ()
    """Other numbers that the metric measures at the same time."""


class Metric(ABC):
    """A choice of `python evaluate.py metric=...`: a number about a trained model, lower for a better one."""

    measures: ClassVar[bool] = True
    """Whether it has a value. A run whose metric has none follows its held-out loss."""
    of_samples: ClassVar[bool] = False
    """Whether ``evaluate`` draws the subject's samples, so that the number depends on the sampler."""
    num_samples: int = 0
    """The number of samples that it draws."""
    takes: ClassVar[frozenset[Part]] = frozenset()
    """What it takes of the pass over the samples that all metrics share; empty for one that compares no samples."""
    features: FeatureExtractor | None
    """Of a metric that takes some."""

    @abstractmethod
    def evaluate(self, subject: Subject) -> Measurement:
        """The metric of a model. Raises ConfigError for a model or data to which it does not apply."""


class TrackedMetric(Metric):
    """A distance of ``num_samples`` samples to the data, lower for a better model; it is also tracked during training.

    An evaluation calls ``reset``, ``update`` for each chunk of samples, and ``compute``. With several processes each
    updates with its share of the samples, and all of them call ``compute``, which returns the same value in each.
    """

    of_samples: ClassVar[bool] = True
    label: str = "distance"
    """What the curve over training and the printed table call the value."""

    @abstractmethod
    def name(self, weights: str) -> str:
        """``metric/what it depends on@num_samples/weights``, e.g. fid/digits@500/ema: equal names are comparable."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all samples."""

    @abstractmethod
    def update(self, generated: Tensor) -> None:
        """Add samples as the data hold them: uint8 images (B, C, H, W) or floats (B, *shape)."""

    @abstractmethod
    def compute(self) -> float:
        """The value of all samples since ``reset``; NaN if samples are not finite."""

    @abstractmethod
    def floor(self) -> float:
        """The value of ``floor_samples`` real examples, which a perfect model is expected to reach.

        Called in one process, before any update.
        """

    @property
    def floor_samples(self) -> int:
        """The number of real examples in the floor."""
        return self.num_samples

    @property
    def floor_of(self) -> str:
        """What the floor compares, for a person."""
        return f"{self.floor_samples} training against the held-out examples"

    def to(self, device: torch.device) -> Any:
        """Move the state to the device of the samples; by default there is none to move."""
        return self

    def description(self) -> dict[str, Any]:
        """What a person needs to know to compare the value with another; written to evaluation.json."""
        return {"num_samples": self.num_samples}

    def evaluate(self, subject: Subject) -> Measurement:
        """The value of the subject's samples, beside the floor."""
        from tqdm import tqdm

        floor = self.floor()
        self.reset()
        self.to(subject.device)
        with tqdm(total=self.num_samples, desc="sampling") as bar:
            for indices, examples in subject.samples():
                self.update(examples)
                bar.update(len(indices))
        value = self.compute()
        rows = {self.label: f"{value:.4g}", f"floor: {self.floor_of}": f"{floor:.4g}"}
        record = {"distance": value, "floor": floor, **self.description()}
        return Measurement(self.name(subject.weights), value, record, rows)
