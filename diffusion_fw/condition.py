"""What a network is told besides x_t and the time: named values, each of which may be left out for an example.

A model that is told a class alone takes int64 labels (B,), where num_classes stands for "not told". A model that is
told anything else takes a ``Condition``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CLASS = "class"
"""The name under which a Condition holds labels."""


@dataclass(frozen=True)
class Told:
    """One value for each example, and whether the example is told it.

    A class is int64 (B,), a vector (B, D), a sequence of embeddings (B, L, D), an image (B, C, *sides) like x.
    ``told`` is bool (B,), or (B, L) of a sequence, whose examples may be of different lengths; one that is told nothing
    has length 0. What a network makes of "not told" is its own: a learned vector for a class or a vector, a learned
    token for a sequence, zeros for an image.
    """

    value: Tensor
    told: Tensor

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, rows: Any) -> Told:
        return Told(self.value[rows], self.told[rows])

    def to(self, *args: Any, **kwargs: Any) -> Told:
        """Moved to another device."""
        return Told(self.value.to(*args, **kwargs), self.told.to(*args, **kwargs))

    def where(self, keep: Tensor) -> Told:
        """The same, told only to the examples in ``keep`` (B,)."""
        keep = keep.to(self.told.device, non_blocking=True)
        return Told(self.value, self.told & keep.view(-1, *[1] * (self.told.ndim - 1)))

    @staticmethod
    def all(value: Tensor) -> Told:
        """A value that every example is told."""
        return Told(value, torch.ones(len(value), dtype=torch.bool, device=value.device))

    @staticmethod
    def cat(parts: Sequence[Told]) -> Told:
        """The examples of several one after another."""
        return Told(torch.cat([part.value for part in parts]), torch.cat([part.told for part in parts]))


@dataclass(frozen=True)
class Condition:
    """All that a batch of examples is told, by name. It is indexed, moved and joined like a tensor."""

    parts: Mapping[str, Told]

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    def __getitem__(self, rows: Any) -> Condition:
        return Condition({name: part[rows] for name, part in self.parts.items()})

    def __or__(self, other: Mapping[str, Told]) -> Condition:
        """With further parts."""
        return Condition({**self.parts, **other})

    def to(self, *args: Any, **kwargs: Any) -> Condition:
        """Moved to another device."""
        return Condition({name: part.to(*args, **kwargs) for name, part in self.parts.items()})

    def pin_memory(self) -> Condition:
        """In memory that a GPU reads itself."""
        pinned = {name: Told(part.value.pin_memory(), part.told.pin_memory()) for name, part in self.parts.items()}
        return Condition(pinned)

    def without(self, names: Sequence[str]) -> Condition:
        """The same, with no example told what these names say."""
        return Condition(
            {
                name: Told(part.value, torch.zeros_like(part.told)) if name in names else part
                for name, part in self.parts.items()
            }
        )

    def labels(self, num_classes: int) -> Tensor | None:
        """The classes as int64 (B,), with num_classes for "not told"; None where there are none."""
        part = self.parts.get(CLASS)
        return None if part is None else torch.where(part.told, part.value, num_classes)

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """The examples of several one after another."""
        return Condition({name: Told.cat([item.parts[name] for item in conditions]) for name in conditions[0].parts})


def told_nothing(cond: Tensor | Condition, num_classes: int, names: Sequence[str] | None = None) -> Tensor | Condition:
    """The same batch without what ``names`` say, by default without anything."""
    if isinstance(cond, Condition):
        return cond.without(list(cond.parts) if names is None else names)
    return torch.full_like(cond, num_classes)


def joined(first: Tensor | Condition, second: Tensor | Condition) -> Tensor | Condition:
    """The examples of two batches that are told the same things, one after another."""
    if isinstance(first, Condition):
        assert isinstance(second, Condition)
        return Condition.cat([first, second])
    assert isinstance(second, Tensor)
    return torch.cat([first, second])


def told_parts(cond: Tensor | Condition | None) -> Mapping[str, Told]:
    """What a batch is told besides labels, by name."""
    return cond.parts if isinstance(cond, Condition) else {}


def blank(
    shape: tuple[int, ...],
    count: int,
    *,
    num_classes: int = 0,
    vectors: Mapping[str, int] | None = None,
    sequences: Mapping[str, tuple[int, int]] | None = None,
    images: Mapping[str, int] | None = None,
) -> Any:
    """Zeros of the kind that a model is told with ``count`` examples of this shape, to measure what it takes.

    ``vectors``, ``sequences`` and ``images`` give the sizes as the facts of a model do; num_classes is 0 for a model
    that takes no class.
    """
    values = {name: torch.zeros(count, size) for name, size in (vectors or {}).items()}
    values |= {name: torch.zeros(count, *size) for name, size in (sequences or {}).items()}
    values |= {name: torch.zeros(count, channels, *shape[1:]) for name, channels in (images or {}).items()}
    labels = torch.zeros(count, dtype=torch.long) if num_classes else None
    if not values:
        return labels
    parts = {name: Told.all(value) for name, value in values.items()}
    for name in sequences or {}:
        parts[name] = Told(values[name], torch.ones(values[name].shape[:2], dtype=torch.bool))
    return Condition(parts if labels is None else {**parts, CLASS: Told.all(labels)})


def on(cond: Tensor | Condition | None, device: torch.device | str) -> Any:
    """What a batch is told, on a device."""
    return None if cond is None else cond.to(device)


def class_labels(cond: Tensor | Condition | None, num_classes: int) -> Tensor | None:
    """The classes of a batch, int64 (B,), whatever else it is told; None without."""
    return cond.labels(num_classes) if isinstance(cond, Condition) else cond
