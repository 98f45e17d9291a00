"""Coarse pixels: for any images, without weights."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate

from diffusion_fw.data.dataset import to_model
from diffusion_fw.metrics.features.extractor import FeatureExtractor, require_images
from diffusion_fw.registry import Runtime, register


@register("features", "pixels")
class Pixels(FeatureExtractor):
    """The image area-averaged to at most 8x8, in [-1, 1], flattened: C min(H, 8) min(W, 8) features.

    They measure layout, colour and contrast, but not texture; trained features that fit the data measure more. Raises
    ConfigError for data that are not images.
    """

    name = "pixels"
    settings = "area 8"

    def __init__(self, shape: Runtime[tuple[int, ...]]):
        super().__init__()
        require_images("pixels", shape)
        channels, height, width = shape
        self.size = (min(height, 8), min(width, 8))
        self.num_features = channels * self.size[0] * self.size[1]
        self.freeze()

    def forward(self, examples: Tensor) -> Tensor:
        return interpolate(to_model(examples), size=self.size, mode="area").flatten(1)
