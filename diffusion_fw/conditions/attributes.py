"""Numbers that describe an example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from diffusion_fw.conditions.source import Asked, Kind, Source, Table
from diffusion_fw.data.dataset import Data
from diffusion_fw.denoiser import Noise
from diffusion_fw.registry import ConfigError, register


@register("condition", "attributes")
@dataclass(frozen=True)
class Attributes(Source):
    """The numbers that the data state of an example, as one vector (D,): angles, ages, measurements, ...

    They should be of order 1. In sampling ``vector=[0.5,-1]`` is what all samples are told; without, they are told
    those of the held-out examples. Raises ConfigError for data without attributes.
    """

    kind: ClassVar[Kind] = "vectors"
    asked_by: ClassVar[tuple[str, ...]] = ("vector",)

    def size(self, data: Data) -> int:
        found = data.attributes("train")
        if found is None:
            raise ConfigError(
                f"condition=attributes needs numbers that describe the examples, which the data "
                f"({type(data).__name__}) have not; leave attributes out of condition, or choose other data=..."
            )
        return found.shape[1]

    def table(self, data: Data, split: str) -> Table:
        found = data.attributes(split)
        assert found is not None
        names = [", ".join(f"{value:.3g}" for value in row) for row in found.tolist()]
        return Table.all(found.float(), names)

    def asked(self, asked: Asked, shape: tuple[int, ...], noise: Noise) -> Table:
        given: Any = asked["vector"]
        vector = torch.tensor([float(value) for value in given])
        return Table.all(vector[None], [", ".join(f"{value:.3g}" for value in vector.tolist())])
