"""The laws of conditions: values of the declared size, a function of the example, the seed and its index alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffusion_fw.checking.findings import Row, at_least, verdict
from diffusion_fw.checking.subject import Check, Subject
from diffusion_fw.condition import Told
from diffusion_fw.conditions.source import Source
from diffusion_fw.data.dataset import Data, InMemory
from diffusion_fw.noise import SampleNoise
from diffusion_fw.registry import ConfigError
from diffusion_fw.text_encoders.hashing import Hashing

SHAPES = ((2,), (1, 8, 8), (3, 16, 16))
COUNT = 6
KINDS = ("vectors", "sequences", "images")


class Described(Data):
    """Random examples of a shape with captions, of which one is empty, and two numbers each."""

    default_features = "identity"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def load(self, split: str) -> InMemory:
        source = torch.Generator().manual_seed(int(split == "test"))
        return InMemory(2 * torch.rand(COUNT, *self.shape, generator=source) - 1)

    def captions(self, split: str) -> Sequence[str]:
        return ["a red heart", "", *(f"number {index}" for index in range(COUNT - 2))]

    def attributes(self, split: str) -> Tensor:
        return torch.arange(2.0 * COUNT).view(COUNT, 2) / COUNT


def _built(subject: Subject) -> Source:
    source: Source = subject.assemble(encoder=Hashing())
    return source


def _told(source: Source, data: Described, indices: Sequence[int], x0: Tensor) -> Told:
    """What the training examples x_0 at these indices are told."""
    table = source.table(data, "train")
    return source.of(x0, SampleNoise(0, indices)) if table is None else table.rows(indices)


def _examples(data: Described, indices: Sequence[int]) -> Tensor:
    return data.train.__getitems__(indices)[0]


def _sides(kind: str, size: int | tuple[int, int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the value of an example."""
    if isinstance(size, tuple):
        return size
    return (size, *shape[1:]) if kind == "images" else (size,)


def kind(subject: Subject) -> Iterator[Row]:
    """It declares how a network takes it, and by which keys a user asks for it."""
    source = _built(subject)
    wrong = None if source.kind in KINDS else repr(source.kind)
    yield verdict("kind", "", wrong, f"one of {', '.join(KINDS)}")
    yield at_least("keys that ask for it", "", len(source.asked_by), 1)


def values(subject: Subject) -> Iterator[Row]:
    """Values of the declared size, finite, and bool whether each is told; the examples stay as they are."""
    ran = 0
    for shape in SHAPES:
        source, data = _built(subject), Described(shape)
        try:
            size = source.size(data)
        except ConfigError as error:
            yield Row("values", f"x {shape}", f"refused: {error}")
            continue
        ran += 1
        x0 = _examples(data, range(COUNT))
        found, sides = _told(source, data, range(COUNT), x0), _sides(source.kind, size, shape)
        places = (COUNT, sides[0]) if source.kind == "sequences" else (COUNT,)
        wrong = None
        if tuple(found.value.shape) != (COUNT, *sides):
            wrong = f"values {tuple(found.value.shape)}"
        elif tuple(found.told.shape) != places or found.told.dtype != torch.bool:
            wrong = f"told {tuple(found.told.shape)}, {found.told.dtype}"
        elif not found.value.is_floating_point() or not bool(found.value.isfinite().all()):
            wrong = "values that are no finite floats"
        elif not torch.equal(x0, _examples(data, range(COUNT))):
            wrong = "changed examples"
        yield verdict("values", f"x {shape}", wrong, f"finite values {(COUNT, *sides)}, told bool {places}")
    yield at_least("shapes that it applies to", "", ran, 1)


def examples(subject: Subject) -> Iterator[Row]:
    """An example is told the same in every batch and every time."""
    for shape in SHAPES:
        source, data = _built(subject), Described(shape)
        try:
            source.size(data)
        except ConfigError:
            continue
        whole, again = (_told(source, data, range(COUNT), _examples(data, range(COUNT))) for _ in range(2))
        wrong = None
        if not torch.equal(whole.value, again.value) or not torch.equal(whole.told, again.told):
            wrong = "other values the second time"
        for rows in ([0], [4, 1, 3]):
            part = _told(source, data, rows, _examples(data, rows))
            if not torch.allclose(part.value, whole.value[rows], rtol=1e-4, atol=1e-5):
                wrong = wrong or "another value in another batch"
            elif not torch.equal(part.told, whole.told[rows]):
                wrong = wrong or "told in one batch and not in another"
        yield verdict("examples of a batch", f"x {shape}", wrong, "what they are told alone")


CHECKS: tuple[Check, ...] = (kind, values, examples)
