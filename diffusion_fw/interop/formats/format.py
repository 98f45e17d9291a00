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

AVERAGED = ("ema", "model_ema", "ema_state_dict", "params_ema", "state_dict", "model", "model_state_dict", "net")
"""Keys under which training scripts keep a state dict, averaged weights first."""


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
    pixels: bool = True
    """Whether the examples are 8-bit images rather than latents or other floats."""
    label_dropout: float = 0.0
    """The share of examples that were trained without their class; above 0 classifier-free guidance is possible."""
    guessed: tuple[str, ...] = ()
    """Keys such as network.num_heads that the weights do not determine: the papers' values were taken."""


class Format(ABC):
    """How one code base names the weights of its networks."""

    name: ClassVar[str]
    """As the code base is called, such as guided-diffusion."""
    networks: ClassVar[tuple[str, ...]]
    """The names of the networks that its weights belong to."""
    classes: ClassVar[tuple[str, ...]] = ()
    """The classes of diffusers that it reads, as a config.json names them."""
    sampler: ClassVar[Section] = {"name": "ddpm", "steps": 250}
    """How the authors draw samples, and so does the checkpoint unless told otherwise."""
    grid: ClassVar[Section] = {"name": "respaced"}
    guidance: ClassVar[tuple[str, ...]] = ("clip",)

    def weights(self, content: Any) -> Mapping[str, Tensor]:
        """The state dict in what a file holds, the averaged one if there are several; {} if there is none."""
        return state_dict(content)

    @abstractmethod
    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        """Whether the keys (and the ``settings`` that came with them, such as a config.json) are of this format."""

    @abstractmethod
    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        """The model in our terms: what the shapes determine, ``settings``, and else the paper's choice.

        ``given`` holds what the user stated, by key: ``network.num_heads`` and the like, and ``shape``. It has the last
        word on what the weights leave open; the caller lays it over the result.
        """

    def sampler_of(self, model: Published, settings: Mapping[str, Any]) -> Section:
        """The sampler of one of its models, by default ``sampler``."""
        return self.sampler

    @abstractmethod
    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        """A pair for every entry of the state dict of our ``network``."""

    def constants(self, model: Published, network: nn.Module) -> Mapping[str, Tensor]:
        """Entries of the published state dict that are no weights, such as a table of noise levels; by default none.

        They are taken out before an import, and added in an export.
        """
        return {}

    def config(self, model: Published, network: nn.Module) -> Mapping[str, Any]:
        """The settings that the code base keeps with its weights, for the metadata of safetensors; by default none.

        Raises ConfigError for a model that they cannot describe.
        """
        return {}


def is_state_dict(content: Any) -> bool:
    """Whether it maps names to tensors, at least one."""
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


DEPTH = 3
"""Of the containers around a state dict."""


def state_dict(content: Any, depth: int = DEPTH) -> Mapping[str, Tensor]:
    """The state dict in the content of a file: the content itself, under one of the usual keys, or the last of a list.

    Scripts that save a list put the averages after the weights.
    """
    if is_state_dict(content):
        return without_prefix(content)
    if isinstance(content, Mapping) and depth > 0:
        for key in AVERAGED:
            found = state_dict(content[key], depth - 1) if key in content else {}
            if found:
                return found
    if isinstance(content, (list, tuple)):
        return next((without_prefix(item) for item in reversed(content) if is_state_dict(item)), {})
    return {}


def without_prefix(weights: Mapping[str, Tensor], prefix: str = "module.") -> Mapping[str, Tensor]:
    """The weights without a prefix that all of their names have, such as that of nn.DataParallel."""
    if all(key.startswith(prefix) for key in weights):
        return {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights
