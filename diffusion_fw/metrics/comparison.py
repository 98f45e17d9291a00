"""The base of metrics that compare a set of samples with a set of real examples."""

from __future__ import annotations

import functools
import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.data.dataset import READ_AT_ONCE, Examples, evenly_spaced
from diffusion_fw.files import default_cache, with_home
from diffusion_fw.metrics.features.extractor import FeatureExtractor
from diffusion_fw.metrics.metric import Measurement, Metric, Subject
from diffusion_fw.metrics.sample_set import Part, SampleSet, real_set, seen
from diffusion_fw.registry import ConfigError, Range, Runtime

CHECKED = 16
"""The least number of samples that a check of a result measures again."""


def random_groups(count: int, groups: int) -> Tensor:
    """The group of each of ``count`` samples, always the same: groups of equal size, up to one.

    By their order they would hold one class each where classes take turns, or where files are sorted by class.
    """
    return torch.randperm(count, generator=torch.Generator().manual_seed(0)) % groups


def partial_count(num_samples: int) -> int:
    """The number of samples that a check measures again: 1%, but at least CHECKED."""
    return min(num_samples, max(CHECKED, math.ceil(num_samples / 100)))


Numbers = dict[str, float]
"""Numbers by their names, in the order of ``Comparison.numbers``; further ones are only written beside the first."""
Measure = Callable[[SampleSet], Numbers]
Split = Literal["train", "test"]
Interval = tuple[float, float]

LEVEL = 0.95
"""Of confidence intervals."""
SCALES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
"""In which images are held."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beside:
    """What a metric says beside its numbers."""

    record: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, str] = field(default_factory=dict)
    pictures: Sequence[Path] = ()


class Comparison(Metric):
    """A metric that measures numbers of a set of samples against a set of real examples, the reference.

    A subclass says what it takes of both sets, and ``against`` measures. Floor, interval and name are the same for all.
    """

    of_samples: ClassVar[bool] = True
    numbers: ClassVar[dict[str, Literal["lower", "higher"]]]
    """The names of the numbers, and which values are better. The first is the one that sweeps follow."""
    takes: ClassVar[frozenset[Part]] = frozenset({"features"})

    reference: str
    interval_groups: int

    @abstractmethod
    def examples(self, split: Split) -> Examples:
        """The real examples of a split."""

    @property
    @abstractmethod
    def cache(self) -> Path:
        """The folder in which features of real examples are kept."""

    @abstractmethod
    def against(self, real: SampleSet, device: torch.device) -> Measure:
        """The function that measures a set of samples against the reference; what it needs of it is computed once.

        It is a function of the samples alone: randomness is seeded.
        """

    def beside(self, measure: Measure, generated: SampleSet, values: Numbers, subject: Subject) -> Beside:
        """What is written beside the numbers of the samples."""
        return Beside()

    def measuring(self, device: torch.device) -> Measure:
        """``against`` the chosen reference."""
        return self.against(self.compared(device), device)

    def compared(self, device: torch.device) -> SampleSet:
        """The set of the reference."""
        return self.real("train" if self.reference == "train" else "test", device)

    def floors(self, measure: Measure, device: torch.device) -> Numbers:
        """The numbers of real examples that the reference does not hold, as many as samples, which are the goal."""
        return measure(self.real(self.other, device, self.num_samples))

    @property
    def undivided(self) -> bool:
        """Whether both splits are the same examples, as of files that are compared."""
        return self.examples("train") is self.examples("test")

    def halves(self, device: torch.device) -> Numbers:
        """The numbers of one half of the real examples against the other: the floor of data that are not divided."""
        whole = self.real("test", device)
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
        first, second = (whole[half] for half in order.tensor_split(2))
        return self.against(first, device)(second[: self.num_samples])

    def part_of(self, measure: Measure, generated: SampleSet) -> Numbers:
        """The numbers of the first samples, which a check measures again; none where they are too few."""
        count = partial_count(len(generated))
        if count == len(generated):
            return measure(generated)
        try:
            return measure(generated[:count])
        except ConfigError:
            return {}

    @property
    def other(self) -> Split:
        """The split whose examples are compared with the reference for the floor."""
        return "train" if self.reference == "test" else "test"

    def chosen(self, split: Split, count: int | None = None) -> tuple[Examples, Sequence[int]]:
        """A split and the indices of all its examples, or of ``count`` of them, always the same ones."""
        examples = self.examples(split)
        if count is None or count >= len(examples):
            return examples, range(len(examples))
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))
        return examples, order[:count].sort().values.tolist()

    def real(self, split: Split, device: torch.device, count: int | None = None) -> SampleSet:
        """The set of the chosen real examples."""
        features = None if self.features is None else self.features.to(device)
        return real_set(features, self.takes, *self.chosen(split, count), device, self.cache)

    @property
    def measured_on(self) -> FeatureExtractor | None:
        """The features, if it takes them or what their classifier says."""
        return self.features if {"features", "logits"} & self.takes else None

    def full_name(self, number: str, weights: str) -> str:
        """``number/<features>@<num_samples>/<weights>``; the features are followed by the reference, but for test."""
        on = [] if self.measured_on is None else [self.measured_on.name]
        against = "" if self.reference == "test" else f"({Path(self.reference).stem})"
        return "/".join([number, *on]) + f"{against}@{self.num_samples}/{weights}"

    def evaluate(self, subject: Subject) -> Measurement:
        generated = subject.sample_set(self.num_samples, self.takes | {"extremes"}, self.features)
        measure = self.measuring(subject.device)
        floors = self.halves(subject.device) if self.undivided else self.floors(measure, subject.device)
        self.check_values(generated)
        intervals: dict[str, Interval] = {}
        partial: Numbers = {}
        beside = Beside()
        if generated.finite.all():
            values = measure(generated)
            if self.interval_groups:
                intervals = self.intervals(measure, generated, values, subject.device)
            beside = self.beside(measure, generated, values, subject)
            partial = self.part_of(measure, generated)
        else:
            bad = int((~generated.finite).sum())
            logger.warning("%d of %d samples or their features are not finite: the model diverged", bad, len(generated))
            values = dict.fromkeys(self.numbers, math.nan)
        further = {name: value for name, value in values.items() if name not in self.numbers}
        measured = [
            Measurement(
                name=self.full_name(number, subject.weights),
                value=values[number],
                record={
                    number: values[number],
                    "floor": floors[number],
                    "interval": list(intervals[number]) if number in intervals else None,
                    **self.description(),
                },
                rows={
                    number: f"{values[number]:.4g}" + _within(intervals.get(number)),
                    f"floor of {number}": f"{floors[number]:.4g}",
                },
                better=better,
                floor=floors[number],
                interval=intervals.get(number),
                partial=(partial_count(len(generated)), partial[number]) if number in partial else None,
            )
            for number, better in self.numbers.items()
        ]
        first, *others = measured
        return Measurement(
            **{
                **vars(first),
                "record": {**first.record, **further, **beside.record},
                "rows": {**first.rows, **{key: f"{value:.4g}" for key, value in further.items()}, **beside.rows},
                "pictures": [*beside.pictures],
                "further": others,
            }
        )

    def intervals(
        self, measure: Measure, generated: SampleSet, values: Numbers, device: torch.device
    ) -> dict[str, Interval]:
        """A 95% confidence interval of each number, for other samples of the same model and number.

        By the jackknife: the samples are in G random groups, and each group is left out in turn. The deviation of the
        number is sqrt((G - 1) / G sum_g (number without g - their mean)^2), and the interval is that of Student's t
        with G - 1 degrees of freedom. The reference is taken as it is.
        """
        groups = self.interval_groups
        if groups == 1 or len(generated) < 2 * groups:
            logger.warning(
                "no interval: metric.interval_groups=%d needs two groups of two samples or more, of %d samples",
                groups,
                len(generated),
            )
            return {}
        try:
            replicates = self.replicates(measure, generated, random_groups(len(generated), groups), device)
        except ConfigError as error:
            logger.warning("no interval: there are too few samples to leave a group out: %s", error)
            return {}
        reach = student(groups - 1) * math.sqrt((groups - 1) / groups)
        found = {}
        for number in self.numbers:
            each = torch.tensor([numbers[number] for numbers in replicates], dtype=torch.float64)
            half = reach * float((each - each.mean()).square().sum().sqrt())
            found[number] = (values[number] - half, values[number] + half)
        return found

    def replicates(self, measure: Measure, generated: SampleSet, group: Tensor, device: torch.device) -> list[Numbers]:
        """The numbers without the samples of each group (N,) in turn; what all have in common may be left out."""
        return [measure(generated[group != left_out]) for left_out in range(int(group.max()) + 1)]

    def check_values(self, generated: SampleSet) -> None:
        """Warn where samples lie in [0, 1] and the data in [-1, 1] or the like; ConfigError for another type."""
        assert generated.extremes is not None
        examples = self.examples("test")
        held = examples.__getitems__(evenly_spaced(len(examples), READ_AT_ONCE))[0]
        if (generated.extremes.dtype == torch.uint8) != (held.dtype == torch.uint8):
            raise ConfigError(
                f"the samples are {generated.extremes.dtype} but the held-out examples {held.dtype}: the checkpoint is "
                "of other data, or of a version that took bounded floats for pixels; train it again"
            )
        real = seen(None, {"extremes"}, held, None, held.device).extremes
        assert real is not None
        ours, theirs = _scale(generated.extremes), _scale(real)
        if held.dtype != torch.uint8 and ours and theirs and ours != theirs:
            logger.warning(
                "the samples lie in [%g, %g] and the data in [%g, %g]: are they on the same scale? Numbers of samples "
                "on another scale mean nothing",
                *(*ours, *theirs),
            )

    def description(self) -> dict[str, Any]:
        """What a person needs to know to compare the numbers with others; written to evaluation.json."""
        known = {} if self.measured_on is None else {"features": self.measured_on.name}
        return {**known, "num_samples": self.num_samples, "reference": self.reference}


@dataclass(frozen=True)
class SampleMetric(Comparison):
    """The usual parameters of a comparison; a component adds its own after them."""

    features: Runtime[FeatureExtractor]
    train: Runtime[Examples]
    test: Runtime[Examples]
    num_samples: Annotated[int, Range(2)] = 500
    reference: Split = "test"
    interval_groups: Annotated[int, Range(0, 1000)] = 10
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        two_of_each(self.train, self.test)

    def examples(self, split: Split) -> Examples:
        return self.train if split == "train" else self.test

    @property
    def cache(self) -> Path:
        return with_home(self.cache_dir) if self.cache_dir else default_cache()


def two_of_each(train: Examples, test: Examples) -> None:
    """ConfigError unless each split has two examples."""
    if len(test) < 2 or len(train) < 2:
        raise ConfigError(
            f"a comparison with real examples needs two examples of each split, but data=... holds {len(train)} for "
            f"training and {len(test)} held out; choose other data, or metric=none to train without a distance"
        )


@functools.cache
def student(degrees: int, level: float = LEVEL) -> float:
    """The t of Student's distribution with P(|T| < t) = level: t = sqrt(n) tan a, where a has density cos^(n - 1) a."""
    angle = torch.linspace(0, math.pi / 2, 100_001, dtype=torch.float64)
    inside = torch.cumulative_trapezoid(angle.cos().clamp(min=0) ** (degrees - 1), angle)
    place = int(torch.searchsorted(inside, level * inside[-1]))
    return math.sqrt(degrees) * math.tan(float(angle[place + 1]))


def wilson(successes: float, trials: int, z: float = 1.959964) -> Interval:
    """The interval of Wilson for the probability of a success (Wilson 1927)."""
    share, spread = successes / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def _within(interval: Interval | None) -> str:
    return "" if interval is None else f" ({interval[0]:.4g} to {interval[1]:.4g})"


def _scale(extremes: Tensor) -> tuple[float, float] | None:
    """The scale of values with these extremes (N, 2), if it is one of SCALES and they fill half of it."""
    low, high = float(extremes[:, 0].min()), float(extremes[:, 1].max())
    for least, most in SCALES:
        width = most - least
        if low >= least - 0.05 * width and high <= most + 0.05 * width and high - low >= width / 2:
            return least, most
    return None
