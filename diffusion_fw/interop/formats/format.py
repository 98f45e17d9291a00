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


STATE_DICTS = ("ema", "model_ema", "state_dict", "model")
"""Where files hold a state dict, the averaged weights first."""


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

    def weights(self, content: Any) -> Mapping[str, Tensor]:
        """The state dict in the ``content`` of a file: the content itself, or its average or model; {} without one.

        The prefix of torch.nn.DataParallel is taken off.
        """
        held = [content[key] for key in STATE_DICTS if key in content] if isinstance(content, Mapping) else []
        return next((without_prefix(item, "module.") for item in (content, *held) if _is_state_dict(item)), {})

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

    def constants(self, model: Published, network: nn.Module) -> Mapping[str, Tensor]:
        """Entries of the state dict that are no weights, such as a table of noise levels; by default none.

        They are taken out before an import, and added in an export.
        """
        return {}

    @abstractmethod
    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        """A pair for every entry of the state dict of our ``network``."""


def without_prefix(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same weights with a prefix taken off the names that have it."""
    return {name.removeprefix(prefix): value for name, value in weights.items()}


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(item, Tensor) for item in value.values())
