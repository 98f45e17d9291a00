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
    """The given file, or that of torch-fidelity in torch's hub folder. Raises ConfigError if it does not exist."""
    path = Path(weights or Path(torch.hub.get_dir(), "checkpoints", WEIGHTS_URL.rpartition("/")[2]))
    if not path.is_file():
        raise ConfigError(
            f"no weights at {path}, and a run downloads nothing; get {WEIGHTS_URL} and put it there, "
            "give features.weights=<path>, or choose features=pixels"
        )
    return path


@register("features", "inception")
class Inception(FeatureExtractor):
    """The 2048 pooled features of the Inception-v3 of Heusel et al. 2017, by torch-fidelity's port.

    Images are resized to 299x299 as in TensorFlow 1; a single channel is repeated to three. ``weights`` is the path of
    torch-fidelity's weights file (None: where torch-fidelity keeps it), of which only tensors are read. The extra
    ``inception`` installs the code. Published values use 50,000 samples and the training images as the reference. The
    weights are not shipped and the tests cover only the errors: reproduce a published value before you report one.
    Raises ConfigError if the extra or the weights are missing, and for data that are not uint8 images of one or three
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
        if examples.dtype != torch.uint8:
            raise ConfigError(
                "features=inception needs uint8 pixels, but data=... holds floats; choose features=pixels"
            )
        pooled: Tensor = self.network(examples.expand(-1, 3, -1, -1))[0]
        return pooled
