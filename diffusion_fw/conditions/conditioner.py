"""All conditions of a model together: what its training, its held-out loss and its samples are told."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.condition import CLASS, Condition, Told
from diffusion_fw.conditions.source import Asked, Source, Table
from diffusion_fw.data.dataset import Data, Examples, all_labels, to_model
from diffusion_fw.denoiser import Noise
from diffusion_fw.noise import SampleNoise, generator, seeds
from diffusion_fw.registry import ConfigError

HELD_OUT_STREAM, ORDER_STREAM = 18, 19

Cond = Tensor | Condition | None
"""What a network is told: labels (B,), a Condition, or nothing."""


@dataclass(frozen=True)
class Annotated:
    """Examples with what they are told by their annotations, as a Condition in the place of the labels."""

    examples: Examples
    tables: Mapping[str, Table]

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def nbytes(self) -> int | None:
        """The memory that examples and annotations take, if the examples are held there."""
        size = getattr(self.examples, "nbytes", None)
        return None if size is None else size + sum(table.nbytes for table in self.tables.values())

    def to(self, device: torch.device) -> Annotated:
        """The same in the memory of a device."""
        tables = {name: table.to(device) for name, table in self.tables.items()}
        return Annotated(self.examples.to(device), tables)  # type: ignore[attr-defined]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Condition]:
        values, labels = self.examples.__getitems__(indices)  # type: ignore[arg-type]
        index = torch.as_tensor(indices)
        # Mirror images follow the originals, and have their annotations.
        parts = {name: table.rows(index % len(table)) for name, table in self.tables.items()}
        if labels is not None:
            parts[CLASS] = Told.all(labels)
        return values, Condition(parts)

    def fingerprint(self) -> str:
        return self.examples.fingerprint()


@dataclass(frozen=True)
class Conditioner:
    """What a model is told: the class, if its network takes one, and the conditions of the config."""

    sources: Mapping[str, Source] = field(default_factory=dict)
    num_classes: int = 0
    """Of a network that takes the class, otherwise 0."""

    @property
    def tells(self) -> bool:
        """Whether the model is told anything."""
        return bool(self.sources) or self.num_classes > 0

    @functools.cached_property
    def encoder_fingerprint(self) -> str | None:
        """That of the encoder of text; None without one."""
        encoders = (getattr(source, "encoder", None) for source in self.sources.values())
        return next((encoder.fingerprint() for encoder in encoders if encoder is not None), None)

    def examples(self, data: Data, split: str) -> Examples:
        """The examples of a split with their annotations; as they are where there are no conditions."""
        return self.annotated(data.train if split == "train" else data.test, data, split)

    def annotated(self, examples: Examples, data: Data, split: str) -> Examples:
        """These examples of a split with their annotations; as they are where there are no conditions."""
        if not self.sources:
            return examples
        return Annotated(examples, self.tables(data, split))  # type: ignore[return-value]

    def tables(self, data: Data, split: str) -> dict[str, Table]:
        """The annotations of a split; ConfigError for more or fewer of them than examples."""
        found = {name: source.table(data, split) for name, source in self.sources.items()}
        tables = {name: table for name, table in found.items() if table is not None}
        for name, table in tables.items():
            count = len(data.originals if split == "train" else data.test)
            if len(table) != count:
                raise ConfigError(
                    f"condition={name}: data=... has {count:,} examples in the split {split}, but describes "
                    f"{len(table):,}; its captions and attributes must be those of its examples, in their order"
                )
        return tables

    def cond(self, x0: Tensor, told: Any, keep: Tensor, each: Mapping[str, Tensor], noise: Noise) -> Cond:
        """What a batch x_0 (B, ...) is told, where ``told`` are its labels, or the Condition of its annotations.

        The examples in ``keep`` (B,) are told something, and of it the value ``name`` if they are in ``each[name]``.
        ``noise(like)`` is the randomness of conditions that are made of x_0.
        """
        if not self.sources:
            if not self.num_classes or told is None:
                return None
            return torch.where(keep.to(told.device, non_blocking=True), told, self.num_classes)
        parts = dict(told.parts)
        labels = parts.pop(CLASS, None)
        for name, source in self.sources.items():
            part = parts[name] if name in parts else source.of(x0, noise)
            parts[name] = part.where(keep & each[name]) if name in each else part.where(keep)
        if labels is not None and self.num_classes:
            parts[CLASS] = labels.where(keep)
        return Condition(parts)

    def whole(self, x0: Tensor, told: Any, noise: Noise) -> Cond:
        """What a batch is told where it is told all."""
        return self.cond(x0, told, torch.ones(len(x0), dtype=torch.bool), {}, noise)

    def dropouts(self) -> dict[str, float]:
        """The conditions that some examples of the training are not told, with their fractions."""
        return {name: source.dropout for name, source in self.sources.items() if source.dropout}

    def seeded(self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu") -> Noise:
        """The randomness of conditions that are made of these held-out examples."""
        return SampleNoise(seeds(seed, HELD_OUT_STREAM, count=1)[0], indices, device)


@dataclass(frozen=True)
class Asking:
    """What samples are told: what a user asks for, and otherwise what held-out examples are told.

    Sample i takes row i of what was asked, in turn. Else a held-out example is its model, each in turn, in an order
    that depends on the seed. Where something is asked and no class is chosen, the model is told no class, as that of a
    held-out example would contradict what is asked.
    """

    conditioner: Conditioner
    shape: tuple[int, ...]
    load_data: Callable[[], Data]
    """Called only if the user does not say all that samples are told."""
    seed: int
    asked: Asked = field(default_factory=dict)
    chosen: Tensor | None = None
    """int64 (K,): the classes that the user asks for, in turn."""
    always_class: bool = False
    """Whether training always told the class; then it is that of the held-out example whatever is asked."""

    def __post_init__(self) -> None:
        # What does not fit is refused before anything is drawn.
        _ = self.given

    @functools.cached_property
    def data(self) -> Data:
        """The data of the held-out examples."""
        return self.load_data()

    @functools.cached_property
    def held_out(self) -> Examples:
        """The held-out examples with their annotations."""
        found = self.conditioner.examples(self.data, "test")
        if not len(found):
            raise ConfigError(
                "data=... has no held-out examples, whose conditions the samples would have; say what they are told by "
                f"{', '.join(self.missing)}"
            )
        return found

    @functools.cached_property
    def given(self) -> dict[str, Table]:
        """What the user asks for, by the names of the conditions."""
        keys = {key: value for key, value in self.asked.items() if value is not None}
        sources = self.conditioner.sources
        chosen = {name: source for name, source in sources.items() if source.asked_by[0] in keys}
        used = {key for source in chosen.values() for key in source.asked_by}
        for key in keys.keys() - used:
            raise ConfigError(f"{key}={keys[key]}: {self._unused(key)}")
        noise = self.conditioner.seeded(self.seed, [0])
        return {name: source.asked(keys, self.shape, noise) for name, source in chosen.items()}

    def _unused(self, key: str) -> str:
        """Why a key says nothing of what samples are told."""
        takes = {other: source.asked_by[0] for source in self.conditioner.sources.values() for other in source.asked_by}
        if key in takes:
            return f"this belongs to {takes[key]}=..., which is missing; give both"
        return f"this is nothing that the model is told, which takes {', '.join(takes) or 'none of these keys'}"

    @property
    def missing(self) -> list[str]:
        """The keys of the conditions that the user does not ask for."""
        return [item.asked_by[0] for name, item in self.conditioner.sources.items() if name not in self.given]

    def cond_of(self, indices: Sequence[int]) -> Condition:
        """What the samples with these indices are told, on the host."""
        parts = {name: table.rows(_turns(indices, len(table))) for name, table in self.given.items()}
        if self.missing:
            parts = {**self._like_held_out(indices).parts, **parts}
        parts.pop(CLASS, None)
        labels = self.class_of(indices) if self.conditioner.num_classes else None
        if labels is not None:
            parts[CLASS] = Told.all(labels)
        return Condition(parts)

    def class_of(self, indices: Sequence[int]) -> Tensor | None:
        """The class of each sample, int64 on the host: the chosen one, or that of the held-out example, or None."""
        if self.chosen is not None:
            return self.chosen[_turns(indices, len(self.chosen))]
        if self.given and not self.always_class:
            return None
        labels = self._labels
        return None if labels is None else labels[self.places(indices)]

    @functools.cached_property
    def _labels(self) -> Tensor | None:
        return all_labels(self.data.test) if self.data.num_classes else None

    @functools.cached_property
    def order(self) -> Tensor:
        """The order in which held-out examples are taken, by the seed alone: files are often sorted by class."""
        return torch.randperm(len(self.held_out), generator=generator(self.seed, ORDER_STREAM))

    def places(self, indices: Sequence[int]) -> Tensor:
        """The held-out example of each sample."""
        return self.order[_turns(indices, len(self.order))]

    def called(self, indices: Sequence[int]) -> list[str]:
        """What a picture calls what each sample is told; empty where there are no words for it."""
        found = [table.called(_turns(indices, len(table)).tolist()) for table in self.given.values()]
        if self.missing:
            others = (table for name, table in self._tables.items() if name not in self.given)
            found += [table.called(self.places(indices).tolist()) for table in others]
        rows = [names for names in found if names]
        return [", ".join(words) for words in zip(*rows, strict=True)] if rows else []

    @functools.cached_property
    def _tables(self) -> dict[str, Table]:
        return self.conditioner.tables(self.data, "test")

    def shown(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Images (N, C, *sides), as the model sees them, of what samples are told, by the names of the conditions."""
        parts = self.cond_of(indices).parts
        found = {name: source.shown(parts[name]) for name, source in self.conditioner.sources.items()}
        return {name: image for name, image in found.items() if image is not None}

    def of_given(self, x0: Tensor) -> Condition:
        """What the model is told of images x_0 (N, ...) that are no samples: what is made of them, and what is asked.

        Raises ConfigError where a condition is neither.
        """
        places = range(len(x0))
        parts = {name: table.rows(_turns(places, len(table))) for name, table in self.given.items()}
        noise, sources = self.conditioner.seeded(self.seed, places), self.conditioner.sources
        for name, source in sources.items():
            if source.kind == "images":
                parts[name] = source.of(x0, noise)
            elif name not in parts:
                raise ConfigError(f"what is condition={name} of the given images? give {source.asked_by[0]}=...")
        if self.conditioner.num_classes and self.chosen is not None:
            parts[CLASS] = Told.all(self.chosen[_turns(places, len(self.chosen))])
        return Condition(parts)

    def originals(self, indices: Sequence[int]) -> Tensor | None:
        """The held-out examples that the samples have as models; None where the user asks for everything."""
        if not self.missing:
            return None
        return to_model(self.held_out.__getitems__(self.places(indices).tolist())[0])

    def _like_held_out(self, indices: Sequence[int]) -> Condition:
        places = self.places(indices).tolist()
        values, told = self.held_out.__getitems__(places)
        found = self.conditioner.whole(to_model(values), told, self.conditioner.seeded(self.seed, places))
        assert isinstance(found, Condition)
        return found


def _turns(indices: Sequence[int], count: int) -> Tensor:
    return torch.as_tensor(list(indices)) % count
