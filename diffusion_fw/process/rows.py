"""Records of tensors of one shape, which are indexed as one: a row is the record of the tensors' rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import TypeVar

from torch import Tensor

Record = TypeVar("Record", bound="Rows")


@dataclass(frozen=True, eq=False)
class Rows:
    """A dataclass whose fields are tensors of one shape.

    Indexing, length and iteration are those of the first dimension: ``record[3]``, ``record[1:]`` and
    ``record[torch.tensor([0, 2])]`` are records too.
    """

    def map(self: Record, function: Callable[[Tensor], Tensor]) -> Record:
        """The record with a function applied to each of its tensors."""
        return type(self)(*(function(value) for value in self.tensors()))

    def tensors(self) -> list[Tensor]:
        """The fields, in their order."""
        return [getattr(self, item.name) for item in fields(self)]

    def unbind(self: Record) -> list[Record]:
        """The record of each row."""
        return [type(self)(*row) for row in zip(*(value.unbind() for value in self.tensors()), strict=True)]

    def __getitem__(self: Record, key: int | slice | Tensor | list[int]) -> Record:
        return self.map(lambda value: value[key])

    def __len__(self) -> int:
        return len(self.tensors()[0])

    def __iter__(self: Record) -> Iterator[Record]:
        return iter(self.unbind())
