"""What a format of published weights is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from diffusion_fw.interop.pairs import Pair

Section = dict[str, Any]
"""A section of a config: the name of a component and its parameters."""


@dataclass(frozen=True)
class Published:
    """A published model in the terms of a config."""

    network: Section
    shape: tuple[int, ...]
    """Of one example: (C, H, W)."""
    num_classes: int = 0
    schedule: Section = field(default_factory=lambda: {"name": "linear"})
    parameterization: Section = field(default_factory=lambda: {"name": "epsilon"})
    variance: Section = field(default_factory=lambda: {"name": "small"})
    data_range: tuple[float, float] = (-1.0, 1.0)
    guessed: tuple[str, ...] = ()
    """Keys such as network.num_heads that the weights do not determine: the papers' values were taken."""


class Format(ABC):
    """How one code base names the weights of its networks."""

    name: ClassVar[str]
    """As the code base is called, such as guided-diffusion."""

    @abstractmethod
    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        """Whether the keys (and the ``settings`` that came with them, such as a config.json) are of this format."""

    @abstractmethod
    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        """The model in our terms: what the shapes determine, ``settings``, and else the paper's choice.

        ``given`` holds what the user stated, by key: ``network.num_heads`` and the like, and ``data.shape``. It has the
        last word on what the weights leave open, and its other keys are laid over the result by the caller.
        """

    @abstractmethod
    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        """A pair for every entry of the state dict of our ``network``."""
