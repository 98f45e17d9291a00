"""The examples themselves."""

from __future__ import annotations

from torch import Tensor

from diffusion_fw.data.dataset import usual_features
from diffusion_fw.metrics.features.extractor import FeatureExtractor
from diffusion_fw.registry import ConfigError, Runtime, register


@register("features", "identity")
class Identity(FeatureExtractor):
    """phi(x) = x: the Fréchet distance is the squared 2-Wasserstein distance of two Gaussians fitted to the points.

    Raises ConfigError for data that are not points (D,).
    """

    name = "identity"

    def __init__(self, shape: Runtime[tuple[int, ...]]):
        super().__init__()
        if len(shape) != 1:
            raise ConfigError(
                f"these features need points (D,), but an example of data=... has the shape {tuple(shape)}; "
                f"choose features={usual_features(shape)} instead of features=identity"
            )
        self.num_features = shape[0]
        self.freeze()

    def forward(self, examples: Tensor) -> Tensor:
        return examples.float()
