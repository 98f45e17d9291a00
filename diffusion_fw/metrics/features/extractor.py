"""The base of all features: a frozen map from examples, as the data set holds them, to vectors."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from diffusion_fw.registry import ConfigError


class FeatureExtractor(nn.Module, ABC):
    """phi: examples (B, *shape), uint8 pixels or floats, to float32 features (B, num_features).

    It never trains: it stays in evaluation mode, whatever module contains it, and its weights take no gradients.
    """

    name: ClassVar[str]
    """Part of the name of every value that is measured on these features."""
    num_features: int
    settings: str = ""
    """What the features depend on besides the weights, such as the size to which images are resized."""

    def freeze(self) -> None:
        """Fix all weights; to be called at the end of a subclass's constructor."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FeatureExtractor:
        return super().train(False)

    @abstractmethod
    def forward(self, examples: Tensor) -> Tensor:
        """float32 (B, num_features)."""

    def logits(self, examples: Tensor) -> Tensor:
        """float32 (B, K) of the classifier that the features are of. Raises ConfigError where there is none."""
        raise ConfigError(
            f"features={self.name} are of no classifier, whose classes this metric takes; choose features=inception, "
            "or features=digits for digits"
        )

    def fingerprint(self) -> str:
        """A hash of name, settings and weights; statistics of the features are cached under it."""
        content = hashlib.sha256(repr((self.name, self.num_features, self.settings)).encode())
        for key, weight in sorted(self.state_dict().items()):
            content.update(repr((key, tuple(weight.shape), weight.dtype)).encode())
            content.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return content.hexdigest()[:16]


def require_images(features: str, shape: tuple[int, ...], channels: tuple[int, ...] | None = None) -> None:
    """Raise ConfigError unless ``shape`` is that of images with one of the allowed numbers of channels."""
    if len(shape) != 3:
        raise ConfigError(
            f"these features need images (C, H, W), but an example of data=... has the shape {tuple(shape)}; "
            f"choose features=identity instead of features={features}"
        )
    if channels is not None and shape[0] not in channels:
        raise ConfigError(
            f"these features need images of {' or '.join(map(str, channels))} channels, but those of data=... have "
            f"{shape[0]}; choose features=pixels or features=efficientnet_lite0 instead of features={features}"
        )
