"""The base of every condition: where its values come from in training, and what a user gives in sampling."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.condition import Told
from diffusion_fw.data.dataset import Data
from diffusion_fw.denoiser import Noise
from diffusion_fw.registry import Fraction

Kind = Literal["vectors", "sequences", "images"]
Asked = Mapping[str, Any]
"""The keys of sample.py by which a user says what samples are told: prompt, image, mask, vector."""


@dataclass(frozen=True)
class Table:
    """What the examples of a split are told by their annotations: distinct values, and which of them each example has.

    On the device that it was moved to, as ``InMemory`` examples are.
    """

    values: Told
    index: Tensor
    """int64 (N,): the row of ``values`` of each example."""
    names: Sequence[str] = ()
    """What a picture calls each row of ``values``; empty for what needs no words."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return self.values.value.nbytes + self.values.told.nbytes + self.index.nbytes

    def to(self, device: torch.device) -> Table:
        """The same in the memory of a device."""
        return Table(self.values.to(device), self.index.to(device), self.names)

    def rows(self, indices: Sequence[int] | Tensor) -> Told:
        """What the examples at these indices are told."""
        return self.values[self.index[torch.as_tensor(indices, device=self.index.device)]]

    def called(self, indices: Sequence[int]) -> list[str]:
        """What a picture calls it."""
        return [self.names[row] for row in self.index[torch.as_tensor(indices)].tolist()] if self.names else []

    @staticmethod
    def all(values: Tensor, names: Sequence[str] = ()) -> Table:
        """A table of an own value for each example."""
        return Table(Told.all(values), torch.arange(len(values)), names)


@dataclass(frozen=True)
class Source(ABC):
    """A condition: either annotations of the data (``table``), or made of x_0 itself (``of``).

    ``dropout`` is the fraction of training examples that are not told it, besides those that label_dropout tells
    nothing at all. A guidance that evaluates the model without it needs one of the two.
    """

    kind: ClassVar[Kind]
    """How a network takes it, which is the name of the Runtime parameter by which it does."""
    asked_by: ClassVar[tuple[str, ...]]
    """The keys of sample.py that say what samples are told."""

    dropout: Fraction = 0.0

    @abstractmethod
    def size(self, data: Data) -> int | tuple[int, int]:
        """The length of a vector, (length, size) of a sequence of embeddings, or the channels of an image.

        Raises ConfigError for data that it does not apply to.
        """

    def table(self, data: Data, split: str) -> Table | None:
        """The annotations of a split, "train" or "test"; None for a condition that is made of x_0."""
        return None

    def of(self, x0: Tensor, noise: Noise) -> Told:
        """What an example x_0 (B, *shape) of the training is told, with randomness from ``noise(like)``."""
        raise NotImplementedError

    @abstractmethod
    def asked(self, asked: Asked, shape: tuple[int, ...], noise: Noise) -> Table:
        """What a user asks for by the keys ``asked_by``; ConfigError for what does not fit examples of this shape.

        ``noise(like)`` is the randomness of a condition that is made of an image.
        """

    def shown(self, told: Told) -> Tensor | None:
        """Images (B, C, *sides) as the model sees them that show what it is told; None for what is no image."""
        return None
