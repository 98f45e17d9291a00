"""The autoencoder that our own program trains, as a codec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from diffusion_fw import registry
from diffusion_fw.codecs import _file
from diffusion_fw.codecs.codec import Codec, hash_of
from diffusion_fw.registry import ConfigError, Name, register

NAME = "kl_autoencoder"


def write_autoencoder(path: Path, network: nn.Module, section: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    """Write the file of a trained network, which its ``section`` of the config describes, of examples of ``shape``."""
    _file.write(path, {"name": NAME, "network": dict(section), "shape": list(shape)}, network.state_dict())


@register("codec", NAME)
class KLAutoencoderCodec(Codec):
    """An autoencoder that objective=autoencoder has trained (Rombach et al. 2022): RUN/checkpoints/codec.safetensors.

    Without ``path``, train.py first trains it, as experiment=``experiment`` on the same data, and keeps it in the
    cache. The latent is the mean of q(z | x), or drawn from it once for each example (posterior=draw).
    """

    def __init__(
        self,
        path: str | None = None,
        experiment: Name = "autoencoder",
        posterior: Literal["mean", "draw"] = "mean",
    ) -> None:
        super().__init__()
        if path is None:
            raise ConfigError(
                f"codec.path: which autoencoder? `python train.py experiment={experiment}` trains one; then give "
                "codec.path=RUN/checkpoints/codec.safetensors"
            )
        self.path, self.draws = path, posterior == "draw"
        self.description, weights = _file.read(path, NAME)
        network = self._built(len(weights))
        self.network: Any = _file.filled(network, weights, path)

    def _built(self, tensors: int) -> nn.Module:
        """The network without memory. No description asks for more layers than the file has weights for."""
        section, shape = self.description.get("network"), self.description.get("shape")
        try:
            if not isinstance(section, dict) or not isinstance(shape, list):
                raise ConfigError("it describes no network")
            self.shape = registry.convert(tuple[registry.PositiveInt, ...], shape)
            entry = registry.entry("network", str(section.get("name")))
            if not getattr(entry.factory, "reconstructs", False):
                raise ConfigError(f"network={entry.name} is no autoencoder")
            given = {key: value for key, value in section.items() if key != "name"}
            for key, value in given.items():
                if key.startswith("num_") and isinstance(value, int) and value > tensors:
                    raise ConfigError(f"network.{key}={value} is more than its {tensors} weights are for")
            known = {"shape": self.shape, "num_classes": 0}
            passed = {key: value for key, value in known.items() if key in entry.runtime}
            with _file.without_memory():
                built: nn.Module = registry.build("network", entry.name, **given, **passed)
            return built
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"codec.path={self.path}: {error}") from None

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if shape != self.shape:
            raise ConfigError(
                f"codec.path={self.path} is of examples of shape {self.shape}, but those of data=... are {shape}; "
                "train an autoencoder on these data, or choose others"
            )
        result: tuple[int, ...] = self.network.latent_shape
        return result

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        mean, deviation = self.network.posterior(x)
        return mean, deviation

    def reconstruct(self, z: Tensor) -> Tensor:
        result: Tensor = self.network.reconstruct(z)
        return result

    def fingerprint(self) -> str:
        what = json.dumps([self.description, self.draws], sort_keys=True)
        return hash_of(what, self.network.state_dict())

    def save(self, path: Path) -> None:
        _file.write(path, self.description, self.network.state_dict())
