"""Whether samples are copies of training examples, or of each other."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from diffusion_fw.data.dataset import InMemory, to_model
from diffusion_fw.metrics.comparison import Beside, Interval, Measure, Numbers, SampleMetric, Split, logger, wilson
from diffusion_fw.metrics.metric import Subject
from diffusion_fw.metrics.neighbours import nearest, radii
from diffusion_fw.metrics.sample_set import Part, SampleSet, real_set
from diffusion_fw.registry import ConfigError, OpenFraction, PositiveInt, register

HELD_OUT = 10_000
"""Held-out examples by which distances are judged, at most."""
ALARM = 0.001
"""The probability that samples of an honest model raise the alarm."""
TAIL, FEWEST = 0.1, 10
"""The nearest held-out examples, from which the probability of smaller distances is extrapolated, and at least."""


class Neighbours(NamedTuple):
    """How far examples are from the training examples."""

    near: Tensor
    """(N,) the larger of the distances in the two spaces, each in units of the median of held-out examples."""
    example: Tensor
    """(N,) the training example that is nearest in the features."""
    distances: dict[str, Tensor]
    """(N,) of each space."""


@register("metric", "memorization")
@dataclass(frozen=True)
class Memorization(SampleMetric):
    """How near samples are to their nearest training examples, beside how near held-out examples are.

    The distance is Euclidean in two spaces, the values of the examples (Carlini et al. 2023) and the features
    (Somepalli et al. 2023), each divided by the median of held-out examples. A copy is near in both, so the larger of
    the two counts. Training examples are taken without mirror images.

    ``memorized`` is the part of the samples that are nearer than the ``quantile`` of the held-out examples, and about
    ``quantile`` for an honest model. ``distance_ratio`` is the median distance in the features over that of held-out
    examples, 1 for an honest model; the z-score of the same comparison is ``copying_z`` (Meehan et al. 2020), far below
    0 where samples are systematically too near. ``duplicates`` is the part of the samples that have another one nearer
    than the ``quantile`` of as many training examples among each other.

    ``copies`` counts single samples that are too near to be honest: the distances of the nearest tenth of the held-out
    examples give the power law of small distances, and a copy has a probability below 0.001 / num_samples. A warning
    names them, and the picture shows the ``shown`` nearest pairs. Intervals are those of counts (Wilson 1927) and of a
    median, not of a jackknife. Raises ConfigError for a reference other than test.
    """

    numbers: ClassVar[dict[str, Literal["lower", "higher"]]] = {
        "memorized": "lower",
        "distance_ratio": "higher",
        "duplicates": "lower",
    }
    takes: ClassVar[frozenset[Part]] = frozenset({"features", "examples"})

    quantile: OpenFraction = 0.01
    shown: PositiveInt = 8
    _last: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference != "test":
            raise ConfigError(
                f"metric.reference={self.reference}: must be test, as metric=memorization always looks for training "
                "examples and judges by the held-out ones"
            )
        if self.undivided:
            raise ConfigError(
                "metric=memorization needs training and held-out examples, but a reference of files is one set; give "
                "data=NAME instead of reference=..."
            )

    @property
    def other(self) -> Split:
        """The goal is what held-out examples reach."""
        return "test"

    def compared(self, device: torch.device) -> SampleSet:
        return self.real("test", device, HELD_OUT)

    def against(self, real: SampleSet, device: torch.device) -> Measure:
        usual = self._distances(real, device)
        scale = {space: float(distances.median()) or 1.0 for space, (distances, _) in usual.items()}
        held = _neighbours(usual, scale)
        threshold = _quantile(held.near, self.quantile)

        def measure(generated: SampleSet) -> Numbers:
            found = _neighbours(self._distances(generated, device), scale)
            self._last.update(of=generated, found=found, held=held)
            ratios = {space: float(found.distances[space].median()) / scale[space] for space in scale}
            return {
                "memorized": _share(found.near <= threshold),
                "distance_ratio": ratios["features"],
                "duplicates": self._duplicates(generated, scale, device),
                "distance_ratio_of_values": ratios["values"],
                "copying_z": mann_whitney(found.distances["features"], held.distances["features"]),
                "copies": float((rarity(found.near, held.near) < ALARM / len(generated)).sum()),
            }

        return measure

    def intervals(
        self, measure: Measure, generated: SampleSet, values: Numbers, device: torch.device
    ) -> dict[str, Interval]:
        count = len(generated)
        found, _ = self._judged(measure, generated)
        distances = found.distances["features"].sort().values
        half = 0.98 * math.sqrt(count)
        low, high = (int(min(count - 1, max(0, count / 2 + sign * half))) for sign in (-1, 1))
        unit = values["distance_ratio"] / float(distances.median()) if float(distances.median()) else 0.0
        return {
            "memorized": wilson(values["memorized"] * count, count),
            "distance_ratio": (unit * float(distances[low]), unit * float(distances[high])),
            "duplicates": wilson(values["duplicates"] * count, count),
        }

    def beside(self, measure: Measure, generated: SampleSet, values: Numbers, subject: Subject) -> Beside:
        from diffusion_fw.pictures.view import view_for

        found, held = self._judged(measure, generated)
        order = found.near.argsort()
        copied = order[: int(values["copies"])].tolist()
        if copied:
            logger.warning(
                "metric=memorization: %d of %d samples are copies of training examples, nearer than an honest model "
                "comes with probability %g: samples %s",
                *(len(copied), len(generated), ALARM, ", ".join(map(str, copied[:10]))),
            )
        assert generated.examples is not None
        shown = order[: self.shown]
        pairs = to_model(
            torch.stack([generated.examples[shown], self.train.__getitems__(found.example[shown].tolist())[0]])
        )
        picture = view_for(subject.data.shape, subject.data.bounds).table(
            subject.folder / "memorization.png",
            pairs,
            rows=["sample", "training"],
            columns=[f"{value:.2f}" for value in found.near[shown].tolist()],
        )
        return Beside(
            {
                "copied_samples": [[index, int(found.example[index])] for index in copied],
                "nearest_of_samples": float(found.near.min()),
                "nearest_of_held_out": float(held.near.min()),
            },
            {"nearest sample, held-out example": f"{float(found.near.min()):.3g}, {float(held.near.min()):.3g}"},
            [picture],
        )

    def _judged(self, measure: Measure, generated: SampleSet) -> tuple[Neighbours, Neighbours]:
        """The neighbours of samples and of held-out examples, from the last measurement if it was of these samples."""
        if self._last.get("of") is not generated:
            measure(generated)
        return self._last["found"], self._last["held"]

    def _distances(self, asked: SampleSet, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
        """The distance and the index (N,) of the nearest training example in each space."""
        train = real_set(self.features.to(device), frozenset({"features"}), *self.chosen("train"), device, self.cache)
        found = {
            "values": nearest(values_of(asked), self.train, lambda part: to_model(part).flatten(1), 1, device),
            "features": nearest(asked.vectors, InMemory(train.vectors), lambda part: part, 1, device),
        }
        return {space: (distances[:, 0], indices[:, 0]) for space, (distances, indices) in found.items()}

    def _duplicates(self, generated: SampleSet, scale: dict[str, float], device: torch.device) -> float:
        """The part of the samples that are too near to another one."""
        count = min(len(generated), len(self.train))
        near = [
            torch.stack(
                [
                    radii(values_of(part), 1, device) / scale["values"],
                    radii(part.vectors, 1, device) / scale["features"],
                ]
            ).amax(0)
            for part in (generated[:count], self.real("train", device, count))
        ]
        return _share(near[0] <= _quantile(near[1], self.quantile))


def values_of(part: SampleSet) -> Tensor:
    """The values of the examples as the model sees them (N, D)."""
    assert part.examples is not None
    return to_model(part.examples).flatten(1)


def rarity(near: Tensor, held: Tensor) -> Tensor:
    """The probability (N,) that an example of the kind of the held-out ones is at least as near.

    Small distances follow a power law. Its power, the dimension of the data, is Hill's estimate from the nearest tenth
    of the held-out examples. Held-out examples that are copies themselves make copies likely.
    """
    apart = held[held > 0].sort().values
    count = min(len(apart), max(FEWEST, math.ceil(TAIL * len(held))))
    if count < 2:
        return torch.ones_like(near)
    copied = 1 - len(apart) / len(held)
    pivot = apart[count - 1]
    power = 1 / (pivot / apart[: count - 1]).log().mean().clamp(min=1e-9)
    return copied + (1 - copied) * count / len(apart) * (near / pivot).clamp(max=1) ** power


def mann_whitney(x: Tensor, y: Tensor) -> float:
    """The z-score of U, the number of pairs with x > y and half of those with x = y: below 0 where x is smaller."""
    ordered = y.sort().values
    below, most = (torch.searchsorted(ordered, x, right=right).double() for right in (False, True))
    n, m = len(x), len(y)
    return float(((below + most).sum() / 2 - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12))


def _neighbours(distances: dict[str, tuple[Tensor, Tensor]], scale: dict[str, float]) -> Neighbours:
    near = torch.stack([distance / scale[space] for space, (distance, _) in distances.items()]).amax(0)
    return Neighbours(near, distances["features"][1], {space: distance for space, (distance, _) in distances.items()})


def _quantile(near: Tensor, quantile: float) -> Tensor:
    """The smallest distance that at least this part of the examples does not exceed."""
    return near.kthvalue(math.ceil(quantile * len(near))).values


def _share(chosen: Tensor) -> float:
    return float(chosen.double().mean())
