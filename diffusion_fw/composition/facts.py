"""What a model has to know of its data."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from diffusion_fw import registry
from diffusion_fw.data.dataset import Data, evenly_spaced, to_model
from diffusion_fw.registry import ConfigError, NonNegativeInt, PositiveInt

Config = Mapping[str, Any]

LARGEST_EXAMPLE = 1 << 28
"""Values of one example: no more are believed of a checkpoint's data."""


@dataclass(frozen=True)
class Facts:
    """What the model has to know of its data; a checkpoint carries it, so that no data is needed to load a model."""

    shape: tuple[PositiveInt, ...]
    num_classes: NonNegativeInt
    class_names: tuple[str, ...]
    data_range: tuple[float, float]
    pixels: bool
    data_diameter: float | None = None
    data_std: float | None = None

    @staticmethod
    def of(data: Data, config: Config) -> Facts:
        """The facts of a data set; what takes a pass over the data is measured only where a parameter is "auto"."""
        measured = {}
        if any("auto" in section.values() for section in (config["schedule"], config["parameterization"])):
            measured = measure(data)
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


def measure(data: Data, most: int = 4000) -> dict[str, float]:
    """The largest distance between two training examples and the standard deviation of their values.

    Of at most ``most`` examples, evenly chosen. The distance is technique 1 of Song & Ermon 2020.
    """
    values = to_model(data.train.__getitems__(evenly_spaced(len(data.train), most))[0]).flatten(1)
    return {"data_diameter": float(torch.cdist(values, values).max()), "data_std": float(values.double().std())}
