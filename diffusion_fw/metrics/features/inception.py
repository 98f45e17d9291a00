"""The Inception network of the published FID."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_fw.metrics.features.extractor import FeatureExtractor, require_images
from diffusion_fw.registry import ConfigError, Runtime, register

WEIGHTS_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


def weights_file(weights: str | None) -> Path:
    """The file given, or the one that torch-fidelity keeps in torch's hub folder; ConfigError where there is none."""
    path = Path(weights or Path(torch.hub.get_dir(), "checkpoints", WEIGHTS_URL.rpartition("/")[2]))
    if not path.is_file():
        raise ConfigError(
            f"no weights at {path}; nothing is downloaded during a run: get {WEIGHTS_URL} and put it there, "
            "give features.weights=<path>, or choose features=pixels"
        )
    return path


@register("features", "inception")
class Inception(FeatureExtractor):
    """The 2048 pooled features of the Inception-v3 of Heusel et al. 2017, by torch-fidelity's port.

    Images are resized to 299x299 as TensorFlow 1 did, one channel repeated to three. ``weights`` is the path of
    torch-fidelity's weights file (None: where torch-fidelity keeps it), read as tensors only. The extra ``inception``
    holds the code. Published numbers use 50,000 samples and the training images as the reference. The project's own
    tests cover the errors only, since the weights are not shipped: compare with a published value before you print one.
    Raises ConfigError where the extra or the weights are missing, or for data that are not images of one or three
    channels.
    """

    name: ClassVar[str] = "inception"
    settings = "torch-fidelity 2048"

    def __init__(self, shape: Runtime[tuple[int, ...]], weights: str | None = None):
        super().__init__()
        require_images("inception", shape, channels=(1, 3))
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ConfigError(
                f'{error}; install it with pip install "diffusion-fw[inception]", or choose features=pixels'
            ) from error
        path = weights_file(weights)
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ConfigError(f"features.weights: {path} is not a file of weights ({type(error).__name__})") from error
        self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path))
        self.num_features = 2048
        self.freeze()

    def forward(self, examples: Tensor) -> Tensor:
        return self.network(examples.expand(-1, 3, -1, -1))[0]
