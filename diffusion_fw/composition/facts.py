"""What a model needs to know about its data."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.condition import blank
from diffusion_fw.conditions.conditioner import Conditioner
from diffusion_fw.data.dataset import Data, evenly_spaced, to_model
from diffusion_fw.registry import ConfigError, NonNegativeInt, Positive, PositiveInt, Range

Config = Mapping[str, Any]

LARGEST_EXAMPLE = 1 << 28
"""The most values that one example of a checkpoint's data may have."""
MOST_AXES = 8
Length = Annotated[int, Range(1, 1 << 24)]
NOTHING = Conditioner()
"""Nothing is told but the class."""


@dataclass(frozen=True)
class Facts:
    """What a model needs to know about its data. A checkpoint holds it, so that a model is loaded without its data."""

    shape: tuple[PositiveInt, ...]
    num_classes: NonNegativeInt
    class_names: tuple[str, ...]
    data_range: tuple[float, float]
    pixels: bool
    data_diameter: Positive | None = None
    data_std: Positive | None = None
    class_counts: tuple[Annotated[int, Range(0, 1 << 53)], ...] = ()
    """The number of training examples of each class; version 0.1.0 did not record it."""
    vectors: dict[str, Length] = field(default_factory=dict)
    """The length of each vector that the model is told, by the name of its condition."""
    sequences: dict[str, tuple[Length, Length]] = field(default_factory=dict)
    """The length and the size of each sequence of embeddings that the model is told."""
    images: dict[str, Length] = field(default_factory=dict)
    """The channels of each image that the model is told."""

    @staticmethod
    def of(data: Data, config: Config, conditioner: Conditioner = NOTHING) -> Facts:
        """The facts of a data set and of what a model is told; those in MEASURES only where the config needs them."""
        needed = {
            fact
            for group, _, section in registry.sections(config)
            if MEASURES.keys() & registry.GROUPS[group].runtime.keys()
            for fact in registry.entry(group, section["name"]).measured(section)
        }
        measured: dict[str, Any] = {fact: MEASURES[fact](data) for fact in needed}
        for fact, value in measured.items():
            if not 0 < value < math.inf:
                raise ConfigError(
                    f"data={config['data']['name']}: its {fact} is {value:g}, since its examples are all the same or "
                    "not finite; give numbers for the keys that are auto"
                )
        _ = data.test_class_counts  # held-out labels that are no classes would end the run in its middle
        given = (data.shape, data.num_classes, data.class_names, data.bounds, data.pixels)
        told: dict[str, dict[str, Any]] = {"vectors": {}, "sequences": {}, "images": {}}
        for name, source in conditioner.sources.items():
            told[source.kind][name] = source.size(data)
        return Facts(*given, class_counts=data.class_counts, **{**told, **measured})

    def blank(self, count: int, *, takes_class: bool) -> Any:
        """Zeros of the kind that the model is told with ``count`` examples; None if it is told nothing."""
        classes = self.num_classes if takes_class else 0
        told = {"vectors": self.vectors, "sequences": self.sequences, "images": self.images}
        return blank(self.shape, count, num_classes=classes, **told)  # type: ignore[arg-type]

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Facts:
        """ConfigError for facts of the wrong kind, and for examples of more than MOST_AXES axes or LARGEST_EXAMPLE."""
        fields = typing.get_type_hints(Facts, include_extras=True)
        try:
            facts = Facts(**{key: registry.convert(fields[key], value) for key, value in record.items()})
        except (KeyError, TypeError, ValueError):
            raise ConfigError("the facts of its data are not those of a data set") from None
        if len(facts.shape) > MOST_AXES:
            raise ConfigError(f"its examples have {len(facts.shape):,} axes, more than {MOST_AXES}")
        if math.prod(facts.shape) > LARGEST_EXAMPLE:
            raise ConfigError(f"its examples have more than {LARGEST_EXAMPLE:,} values")
        told = sum(facts.vectors.values()) + sum(length * size for length, size in facts.sequences.values())
        if told + sum(facts.images.values()) * math.prod(facts.shape[1:]) > LARGEST_EXAMPLE:
            raise ConfigError(f"what it is told of an example has more than {LARGEST_EXAMPLE:,} values")
        count = len(facts.class_counts)
        if count and (count != facts.num_classes or not any(facts.class_counts)):
            raise ConfigError(f"its {count} class_counts are not those of {facts.num_classes} classes")
        return facts


def some_examples(data: Data, most: int = 4000) -> Tensor:
    """At most ``most`` training examples (N, D), evenly chosen."""
    return to_model(data.train.__getitems__(evenly_spaced(len(data.train), most))[0]).flatten(1)


def largest_distance(data: Data) -> float:
    """The largest Euclidean distance between two of some_examples (Song & Ermon 2020, technique 1)."""
    values = some_examples(data)
    return float(torch.cdist(values, values).max())


def standard_deviation(data: Data) -> float:
    """The standard deviation of all values of some_examples."""
    return float(some_examples(data).double().std())


MEASURES: dict[str, Callable[[Data], float]] = {
    "data_diameter": largest_distance,
    "data_std": standard_deviation,
}
"""The facts that take a pass over the data."""
