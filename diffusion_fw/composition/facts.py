"""What a model needs to know about its data."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.data.dataset import Data, evenly_spaced, to_model
from diffusion_fw.registry import ConfigError, NonNegativeInt, Positive, PositiveInt

Config = Mapping[str, Any]

LARGEST_EXAMPLE = 1 << 28
"""The most values that one example of a checkpoint's data may have."""


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

    @staticmethod
    def of(data: Data, config: Config) -> Facts:
        """The facts of a data set; those in MEASURES only where a component of the config needs them."""
        needed = {
            fact
            for group, _, section in registry.sections(config)
            if MEASURES.keys() & registry.GROUPS[group].runtime.keys()
            for fact in registry.entry(group, section["name"]).measured(section)
        }
        measured = {fact: MEASURES[fact](data) for fact in needed}
        for fact, value in measured.items():
            if not 0 < value < math.inf:
                raise ConfigError(
                    f"data={config['data']['name']}: its {fact} is {value:g}, since its examples are all the same or "
                    "not finite; give numbers for the keys that are auto"
                )
        return Facts(data.shape, data.num_classes, data.class_names, data.bounds, data.pixels, **measured)

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Facts:
        """ConfigError for facts of the wrong kind, and for examples larger than LARGEST_EXAMPLE."""
        fields = typing.get_type_hints(Facts, include_extras=True)
        try:
            facts = Facts(**{key: registry.convert(fields[key], value) for key, value in record.items()})
        except (KeyError, TypeError, ValueError):
            raise ConfigError("the facts of its data are not those of a data set") from None
        if math.prod(facts.shape) > LARGEST_EXAMPLE:
            raise ConfigError(f"its examples of shape {facts.shape} have more than {LARGEST_EXAMPLE:,} values")
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
