"""What a data set is: two splits of examples, their shape and classes."""

from __future__ import annotations

import functools
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from diffusion_fw.oracles import GaussianMixture

Batch = tuple[Tensor, Tensor | None]
"""Examples (B, *shape), uint8 pixels or float values, and int64 labels (B,) where the data has classes."""


class Examples(Protocol):
    """One split: answers a whole batch of indices at once, so that data in memory costs one indexing a batch."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The examples at these indices. Deterministic: the same indices give the same examples."""
        ...

    def fingerprint(self) -> str:
        """A hash of the content, under which statistics of it are cached."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Examples held in memory."""

    values: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(indices)
        return self.values[chosen], None if self.labels is None else self.labels[chosen]

    def fingerprint(self) -> str:
        content = hashlib.sha256(repr((tuple(self.values.shape), self.values.dtype)).encode())
        content.update(self.values.contiguous().numpy().tobytes())
        return content.hexdigest()[:16]


class Data(ABC):
    """A data set with a fixed split into training and held-out examples."""

    default_features: ClassVar[str]
    """The features on which distances to it are measured unless features=... says otherwise."""
    value_range: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)
    """The bounds of the values that the model sees; None where there are none."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one example: (C, H, W) for images, (D,) for points."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels; empty where there are none."""
        return ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def oracle(self) -> GaussianMixture | None:
        """The distribution of the examples, where it is known in closed form."""
        return None

    @functools.cached_property
    def train(self) -> Examples:
        """The training examples."""
        return self.load("train")

    @functools.cached_property
    def test(self) -> Examples:
        """The held-out examples."""
        return self.load("test")

    @abstractmethod
    def load(self, split: str) -> Examples:
        """The examples of split "train" or "test"; ConfigError that says what is missing and where it belongs."""


def to_model(values: Tensor) -> Tensor:
    """uint8 pixels as float32 in [-1, 1], x = p / 127.5 - 1; other values unchanged as float32."""
    if values.dtype == torch.uint8:
        return values.float() / 127.5 - 1
    return values.float()


def to_pixels(x: Tensor) -> Tensor:
    """Model values in [-1, 1] as uint8 pixels, rounded to the nearest and clamped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def held_out(labels: Tensor) -> Tensor:
    """(N,) bool: every fifth example in the order of their classes, so that both splits have the same balance."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[labels.argsort(stable=True)[4::5]] = True
    return chosen


def uniform_hash(path: PurePosixPath) -> float:
    """A number in [0, 1) that depends on the path alone."""
    digest = hashlib.sha256(os.fsencode(path.as_posix())).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


@dataclass(frozen=True)
class WithFlips:
    """Images followed by their mirror images: index i >= n is image i - n flipped.

    So each epoch shows both, and no coin is tossed: the same indices give the same examples.
    """

    examples: Examples

    def __len__(self) -> int:
        return 2 * len(self.examples)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.as_tensor(indices)
        count = len(self.examples)
        values, labels = self.examples.__getitems__((index % count).tolist())
        flipped = (index >= count).view(-1, 1, 1, 1)
        return torch.where(flipped, values.flip(-1), values), labels

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.examples.fingerprint()} with flips".encode()).hexdigest()[:16]
