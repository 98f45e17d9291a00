"""The base of metrics that compare a set of samples with a set of real examples."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch

from diffusion_fw.data.dataset import Examples
from diffusion_fw.files import default_cache, with_home
from diffusion_fw.metrics.features.extractor import FeatureExtractor
from diffusion_fw.metrics.metric import Measurement, Metric, Subject
from diffusion_fw.metrics.sample_set import Part, SampleSet, real_set
from diffusion_fw.registry import Range, Runtime

CHECKED = 16
"""The least number of samples that a check of a result measures again."""


def partial_count(num_samples: int) -> int:
    """The number of samples that a check measures again: 1%, but at least CHECKED."""
    return min(num_samples, max(CHECKED, math.ceil(num_samples / 100)))


Numbers = dict[str, float]
"""Numbers by their names, in the order of ``Comparison.numbers``."""


class Comparison(Metric):
    """A metric that measures numbers of a set of samples against a set of real examples, the reference.

    A subclass says what it takes of both sets, and ``against`` measures. Floor and name are the same for all.
    """

    of_samples: ClassVar[bool] = True
    numbers: ClassVar[dict[str, Literal["lower", "higher"]]]
    """The names of the numbers, and which values are better. The first is the one that sweeps follow."""
    takes: ClassVar[frozenset[Part]] = frozenset({"features"})

    features: FeatureExtractor | None
    train: Examples
    test: Examples
    reference: str

    @property
    @abstractmethod
    def cache(self) -> Path:
        """The folder in which features of real examples are kept."""

    @abstractmethod
    def against(self, real: SampleSet, device: torch.device) -> Callable[[SampleSet], Numbers]:
        """The function that measures a set of samples against the reference; what it needs of it is computed once.

        It is a function of the samples alone: randomness is seeded.
        """

    def measuring(self, device: torch.device) -> Callable[[SampleSet], Numbers]:
        """``against`` the chosen reference."""
        return self.against(self.real("train" if self.reference == "train" else "test", device), device)

    def real(self, split: Literal["train", "test"], device: torch.device, count: int | None = None) -> SampleSet:
        """The real examples of a split, or ``count`` of them, always the same ones."""
        examples = self.train if split == "train" else self.test
        indices: Sequence[int] = range(len(examples))
        if count is not None and count < len(examples):
            order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))
            indices = order[:count].sort().values.tolist()
        features = None if self.features is None else self.features.to(device)
        return real_set(features, self.takes, examples, indices, device, self.cache)

    def full_name(self, number: str, weights: str) -> str:
        """``number/<features>@<num_samples>/<weights>``; the features are followed by the reference, but for test."""
        on = [] if self.features is None else [self.features.name]
        against = "" if self.reference == "test" else f"({Path(self.reference).stem})"
        return "/".join([number, *on]) + f"{against}@{self.num_samples}/{weights}"

    def evaluate(self, subject: Subject) -> Measurement:
        generated = subject.sample_set(self.num_samples, self.takes, self.features)
        measure = self.measuring(subject.device)
        values = measure(generated)
        checked = partial_count(self.num_samples)
        partial = measure(generated[slice(checked)])
        floor = self.floor_numbers(measure, subject.device)
        measured = [
            Measurement(
                name=self.full_name(number, subject.weights),
                value=values[number],
                record={number: values[number], "floor": floor[number], **self.description()},
                rows={number: f"{values[number]:.4g}", f"floor of {number}": f"{floor[number]:.4g}"},
                better=better,
                floor=floor[number],
                partial=(checked, partial[number]),
            )
            for number, better in self.numbers.items()
        ]
        first, *further = measured
        return Measurement(**{**vars(first), "further": further})

    def floor_numbers(self, measure: Callable[[SampleSet], Numbers], device: torch.device) -> Numbers:
        """The numbers of ``num_samples`` other real examples.

        Where both splits are the same examples, those of one half of them against the other half.
        """
        if self.train is self.test:
            whole = self.real("test", device)
            order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
            halves = [whole[half] for half in order.tensor_split(2)]
            return self.against(halves[0], device)(halves[1][: self.num_samples])
        return measure(self.real("train" if self.reference == "test" else "test", device, self.num_samples))

    def description(self) -> dict[str, Any]:
        """What a person needs to know to compare the numbers with others; written to evaluation.json."""
        known = {} if self.features is None else {"features": self.features.name}
        return {**known, "num_samples": self.num_samples, "reference": self.reference}


@dataclass(frozen=True)
class SampleMetric(Comparison):
    """The usual parameters of a comparison; a component adds its own after them."""

    features: Runtime[FeatureExtractor]
    train: Runtime[Examples]
    test: Runtime[Examples]
    num_samples: Annotated[int, Range(2)] = 500
    reference: Literal["train", "test"] = "test"
    cache_dir: str | None = None

    @property
    def cache(self) -> Path:
        return with_home(self.cache_dir) if self.cache_dir else default_cache()
