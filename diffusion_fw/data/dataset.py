"""The base of all data sets: two splits of examples, their shape, their classes and the range of their values."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.oracles import GaussianMixture
from diffusion_fw.registry import ConfigError

READ_AT_ONCE = 1000
"""Examples that are read together where a property of the data is measured."""
SHOWN_CLASSES = 20

Batch = tuple[Tensor, Tensor | None]
"""Examples (B, *shape), uint8 pixels or float values, and int64 labels (B,) if the data have classes."""


class Examples(Protocol):
    """One split. It returns a whole batch of indices at once, so that data in memory cost one indexing per batch.

    One that knows its labels without reading the examples also has them as ``labels``, int64 (N,) or None. One that is
    held in memory also has its size, ``nbytes``, and ``to(device)``, which returns it there; that one also takes its
    indices as an int64 tensor on the device.
    """

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The examples at these indices. Deterministic: the same indices give the same examples."""
        ...

    def fingerprint(self) -> str:
        """A hash of the content; statistics of the examples are cached under it."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Examples held in memory."""

    values: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def nbytes(self) -> int:
        """The memory that the examples take."""
        return self.values.nbytes + (0 if self.labels is None else self.labels.nbytes)

    def to(self, device: torch.device) -> InMemory:
        """The same examples in the memory of a device."""
        return InMemory(self.values.to(device), None if self.labels is None else self.labels.to(device))

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Batch:
        chosen = torch.as_tensor(indices)
        return self.values[chosen], None if self.labels is None else self.labels[chosen]

    def fingerprint(self) -> str:
        content = hashlib.sha256(repr((tuple(self.values.shape), self.values.dtype)).encode())
        content.update(self.values.cpu().contiguous().numpy().tobytes())
        return content.hexdigest()[:16]


@dataclass(frozen=True)
class WithFlips:
    """Images or videos followed by their mirror images: index i >= n is image i - n, flipped left to right.

    Each epoch shows both versions, and no randomness is involved: the same indices give the same examples.
    """

    examples: Examples

    @functools.cached_property
    def labels(self) -> Tensor | None:
        """The labels of all examples."""
        labels = all_labels(self.examples)
        return None if labels is None else labels.repeat(2)

    @property
    def nbytes(self) -> int | None:
        """The memory that the examples take, if they are held there."""
        return getattr(self.examples, "nbytes", None)

    def to(self, device: torch.device) -> WithFlips:
        """The same examples in the memory of a device."""
        return WithFlips(self.examples.to(device))  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return 2 * len(self.examples)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Batch:
        index = torch.as_tensor(indices)
        count = len(self.examples)
        chosen = index % count
        values, labels = self.examples.__getitems__(chosen if index is indices else chosen.tolist())  # type: ignore[arg-type]
        flipped = (index >= count).view(-1, *[1] * (values.ndim - 1))
        return torch.where(flipped, values.flip(-1), values), labels

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.examples.fingerprint()} with flips".encode()).hexdigest()[:16]


class Data(ABC):
    """A data set with a fixed split into training and held-out examples.

    Examples are either uint8 pixels, which the model sees as x = p / 127.5 - 1, or floats, which it sees unchanged.
    """

    default_features: ClassVar[str]
    """The features on which distances to the data are measured with features=auto."""
    value_range: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)
    """Bounds of the values that the model sees, or None for unbounded floats. Pixels always have (-1, 1)."""

    places: ClassVar[tuple[str, ...]] = ()
    """The parameters that say where the data are. The same data may be elsewhere later."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of an example: (D,) for points, (C, L) series, (C, H, W) images, (C, T, H, W) videos."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in the order of the labels; empty without classes."""
        return ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @functools.cached_property
    def class_counts(self) -> tuple[int, ...]:
        """The number of training examples of each class, in the order of the labels; empty without classes.

        Raises ConfigError where examples have no labels, or labels that are none of the classes.
        """
        return self._counted(all_labels(self.train), "training") if self.num_classes else ()

    @functools.cached_property
    def test_class_counts(self) -> tuple[int, ...]:
        """The same of the held-out examples, which need no labels; empty without."""
        labels = all_labels(self.test) if self.num_classes else None
        return () if labels is None else self._counted(labels, "held-out")

    def _counted(self, labels: Tensor | None, kind: str) -> tuple[int, ...]:
        if labels is None or labels.min() < 0 or labels.max() >= self.num_classes:
            found = "no labels" if labels is None else f"labels from {labels.min()} to {labels.max()}"
            raise ConfigError(
                f"data: {type(self).__name__} has {self.num_classes} classes, but its {kind} examples have {found}; "
                "they must be the positions of its class_names"
            )
        return tuple(labels.bincount(minlength=self.num_classes).tolist())

    @property
    def division(self) -> str:
        """How the data were divided into training and held-out examples, for a person; empty where it is published."""
        return ""

    @property
    def oracle(self) -> GaussianMixture | None:
        """The distribution of the examples, if it is known in closed form."""
        return None

    def captions(self, split: str) -> Sequence[str] | None:
        """A text that describes each example of the split "train" or "test", "" for one without; None for data without.

        In the order of ``originals`` or ``test``; a mirror image has the text of its original.
        """
        return None

    def attributes(self, split: str) -> Tensor | None:
        """Numbers float32 (N, D) that describe each example, in the order of ``captions``; None for data without."""
        return None

    @functools.cached_property
    def train(self) -> Examples:
        """The training examples."""
        return self.load("train")

    @functools.cached_property
    def test(self) -> Examples:
        """The held-out examples."""
        return self.load("test")

    @property
    def originals(self) -> Examples:
        """The training examples without their mirror images, as published statistics of a data set count them."""
        return self.train.examples if isinstance(self.train, WithFlips) else self.train

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each split."""
        return {"train": self.train.fingerprint(), "test": self.test.fingerprint()}

    @abstractmethod
    def load(self, split: str) -> Examples:
        """The examples of the split "train" or "test". Raises ConfigError that names a missing file and its place."""

    def describe(self) -> str:
        """The splits, how they were made, and the classes with their numbers of examples, in one line."""
        text = f"{len(self.train):,} training, {len(self.test):,} held-out, shape {self.shape}"
        if self.division:
            text += f", split: {self.division}"
        if not self.num_classes:
            return f"{text}, no classes"
        counts = [each for each in (self.class_counts, self.test_class_counts) if each]
        shown = [
            f"{repr(name[:100])[1:-1]}: {'+'.join(map(str, numbers))}"
            for name, *numbers in zip(self.class_names[:SHOWN_CLASSES], *counts, strict=False)
        ]
        more = ", ..." if self.num_classes > SHOWN_CLASSES else ""
        return f"{text}, {self.num_classes} classes (training+held-out): {', '.join(shown)}{more}"

    @functools.cached_property
    def pixels(self) -> bool:
        """Whether the examples are uint8 pixels rather than floats, as the first training example shows."""
        values, _ = self.train.__getitems__([0])
        return values.dtype == torch.uint8

    @functools.cached_property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value that the model sees: value_range, or without one the training extremes.

        Raises ConfigError if training examples lie outside value_range, as clipping to it would then change the data.
        """
        if self.pixels:
            return (-1.0, 1.0)
        if self.value_range is None:
            return _extremes(self.train, range(len(self.train)))
        bounds = low, high = self.value_range
        least, most = _extremes(self.train, evenly_spaced(len(self.train), READ_AT_ONCE))
        if least < low or most > high:
            raise ConfigError(
                f"data: training values from {least:g} to {most:g} lie outside the value_range=({low:g}, {high:g}) of "
                f"{type(self).__name__}; set its value_range to the bounds of the data, or to None if they have none"
            )
        return bounds


def usual_features(shape: Sequence[int]) -> str:
    """The features that fit any examples of a shape, for data of which no more is known."""
    return {2: "spectra", 3: "pixels", 4: "clips"}.get(len(shape), "identity")


def all_labels(examples: Examples) -> Tensor | None:
    """The labels of all examples, read from its ``labels`` if it has them, otherwise with the examples."""
    if hasattr(examples, "labels"):
        return None if examples.labels is None else torch.as_tensor(examples.labels)
    parts = []
    for first in range(0, len(examples), READ_AT_ONCE):
        part = examples.__getitems__(range(first, min(first + READ_AT_ONCE, len(examples))))[1]
        if part is None:
            return None
        parts.append(part)
    return torch.cat(parts)


def resident(examples: Examples, device: torch.device, most: float) -> Examples | None:
    """The examples in the memory of a device; None if they are not held in memory or take more than ``most`` bytes."""
    size = getattr(examples, "nbytes", None)
    if size is None or size > most:
        return None
    there: Examples = examples.to(device)  # type: ignore[attr-defined]
    return there


def places(name: str) -> tuple[str, ...]:
    """The parameters of a registered data set that say where it is."""
    found: tuple[str, ...] = getattr(registry.entry("data", name).factory, "places", ())
    return found


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most ``most`` indices below ``count``, evenly spaced, both ends included."""
    return torch.linspace(0, count - 1, min(count, most)).round().long().tolist()


def _extremes(examples: Examples, indices: Sequence[int]) -> tuple[float, float]:
    """The smallest and the largest value of the examples at these indices."""
    parts = (indices[first : first + READ_AT_ONCE] for first in range(0, len(indices), READ_AT_ONCE))
    pairs = [torch.aminmax(examples.__getitems__(part)[0]) for part in parts]
    return min(float(pair.min) for pair in pairs), max(float(pair.max) for pair in pairs)


def to_model(values: Tensor) -> Tensor:
    """uint8 pixels as float32 in [-1, 1], x = p / 127.5 - 1; other values unchanged as float32."""
    if values.dtype == torch.uint8:
        return values.float() / 127.5 - 1
    return values.float()


def from_model(x: Tensor, pixels: bool) -> Tensor:
    """Model values as the data hold them, the inverse of ``to_model``: uint8 pixels, or floats unchanged."""
    return to_pixels(x) if pixels else x


def to_pixels(x: Tensor) -> Tensor:
    """Model values in [-1, 1] as uint8 pixels, p = 127.5 (x + 1), rounded to the nearest and clamped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
