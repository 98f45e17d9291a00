"""A hidden layer of a small classifier of handwritten digits."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from diffusion_fw.data.dataset import to_model
from diffusion_fw.metrics.features.extractor import FeatureExtractor, require_images
from diffusion_fw.registry import Runtime, register

WEIGHTS = Path(__file__).parents[1] / "assets" / "digits_features.safetensors"
SIZE = 8


class DigitsClassifier(nn.Module):
    """Four 3x3 convolutions, an average over positions, one linear layer: (B, 1, 8, 8) in [-1, 1] to ten logits."""

    num_features = 64

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, stride=stride)
            for before, after, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 1), (64, self.num_features, 1))
        )
        self.output = nn.Linear(self.num_features, 10)

    def features(self, x: Tensor) -> Tensor:
        """The last convolution's rectified output, averaged over positions: (B, 64)."""
        for convolution in self.convolutions:
            x = relu(convolution(x))
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.output(self.features(x))
        return logits


@register("features", "digits")
class Digits(FeatureExtractor):
    """The last hidden layer of a classifier trained on the training split of ``data=digits``: 64 features.

    Its accuracy on the 359 held-out digits is 98.9% (scripts/train_digits_features.py makes the weights).
    Images of another size are first area-averaged to 8x8. Raises ConfigError for data that are not images of one
    channel.
    """

    name = "digits"
    settings = "area 8"

    def __init__(self, shape: Runtime[tuple[int, ...]]):
        super().__init__()
        require_images("digits", shape, channels=(1,))
        self.classifier = DigitsClassifier()
        self.classifier.load_state_dict(load_file(WEIGHTS))
        self.num_features = self.classifier.num_features
        self.freeze()

    def input(self, images: Tensor) -> Tensor:
        """Images (B, 1, H, W) as input of the classifier: (B, 1, 8, 8) in [-1, 1]."""
        return interpolate(to_model(images), size=(SIZE, SIZE), mode="area")

    def forward(self, examples: Tensor) -> Tensor:
        return self.classifier.features(self.input(examples))

    def head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier.output(features)
        return logits
