"""The base of all features: a frozen map from examples, as the data set holds them, to vectors."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from diffusion_fw.data.dataset import to_model, usual_features
from diffusion_fw.metrics.features.resize import Resize
from diffusion_fw.registry import ConfigError


class FeatureExtractor(nn.Module, ABC):
    """phi: examples (B, *shape), uint8 pixels or floats, to float32 features (B, num_features).

    It never trains: it stays in evaluation mode, whatever module contains it, and its weights take no gradients.
    """

    name: str
    """Part of the name of every value that is measured on these features."""
    num_features: int
    settings: str = ""
    """What the features depend on besides the weights, such as the size to which images are resized."""
    resize: Resize | None = None
    """The rule by which images are resized to one size; None for features that take images of any size."""
    unrounded: bool = False
    """Whether a protocol gives samples as floats, without rounding them to pixels."""

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
        """float32 (B, K): log-probabilities of K classes up to a constant, by ``head``, which a subclass defines.

        Raises ConfigError without classes.
        """
        return self.head(self(examples))

    def head(self, features: Tensor) -> Tensor:
        """The logits (B, K) of features (B, num_features). Raises ConfigError for a network without classes."""
        raise ConfigError(
            f"features={self.name} tells no classes apart; choose features=inception for natural images, or "
            "features=digits for handwritten digits"
        )

    def fingerprint(self) -> str:
        """A hash of name, settings and weights; statistics of the features are cached under it."""
        content = hashlib.sha256(repr((self.name, self.num_features, self.settings)).encode())
        for key, weight in sorted(self.state_dict().items()):
            content.update(repr((key, tuple(weight.shape), weight.dtype)).encode())
            content.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return content.hexdigest()[:16]


class ImageNetwork(FeatureExtractor):
    """Features of a network that takes colour images of one size: others are resized, a single channel is repeated."""

    size: tuple[int, int]
    resize: Resize

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """The features of float32 images (B, 3, *size) in [-1, 1]."""

    def forward(self, examples: Tensor) -> Tensor:
        images = to_model(examples).expand(-1, 3, -1, -1)
        return self.embed(self.resize(images, self.size))


def require_images(features: str, shape: tuple[int, ...], channels: tuple[int, ...] | None = None) -> None:
    """Raise ConfigError unless ``shape`` is that of images with one of the allowed numbers of channels."""
    if len(shape) != 3:
        raise ConfigError(
            f"these features need images (C, H, W), but an example of data=... has the shape {tuple(shape)}; "
            f"choose features={usual_features(shape)} instead of features={features}"
        )
    if channels is not None and shape[0] not in channels:
        raise ConfigError(
            f"these features need images of {' or '.join(map(str, channels))} channels, but those of data=... have "
            f"{shape[0]}; choose features=pixels or features=efficientnet_lite0 instead of features={features}"
        )
