"""The autoencoders of diffusers as codecs: AutoencoderKL, as of Stable Diffusion, and the small AutoencoderTiny."""

from __future__ import annotations

import importlib.util
import inspect
import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from diffusion_fw.codecs import _file
from diffusion_fw.codecs.codec import Codec, hash_of
from diffusion_fw.files import with_home
from diffusion_fw.registry import ConfigError, register

WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
DEEPEST = 16
"""The most levels, and blocks of a level, of an autoencoder."""
FORMER = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""What weights of attention were called until diffusers 0.13."""


class DiffusersCodec(Codec):
    """An autoencoder of diffusers in a local folder; its weights are read as safetensors, its config as values."""

    kind: ClassVar[str]
    """The name of the class in diffusers."""
    name: ClassVar[str]

    def __init__(self, path: str | None) -> None:
        super().__init__()
        if path is None:
            raise ConfigError(f"codec.path: which folder of diffusers? give codec.path=... with codec={self.name}")
        if importlib.util.find_spec("diffusers") is None:
            raise ConfigError(
                f"codec={self.name} needs the package diffusers: pip install -e '.[diffusers]'; or choose "
                "codec=kl_autoencoder"
            )
        self.path = path
        self.config, weights = self._read(with_home(path))
        network = self._built()
        self.network: Any = _file.filled(network, weights, path)

    def _read(self, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(config, weights) of a folder, of the vae of a pipeline's folder, or of a file that ``save`` wrote."""
        if path.is_file():
            description, weights = _file.read(self.path, self.name)
            config = description.get("config")
            return config if isinstance(config, dict) else {}, weights
        folder = path / "vae" if (path / "vae" / CONFIG).is_file() else path
        config = _file.json_of(_file.content_of(folder / CONFIG), folder / CONFIG)
        if (kind := config.get("_class_name")) != self.kind:
            raise ConfigError(
                f"codec.path={self.path}: it holds {str(kind)[:100]}, but codec={self.name} is {self.kind}"
            )
        weights = _file.weights_of(_file.content_of(folder / WEIGHTS), folder / WEIGHTS)
        for old, new in FORMER.items():
            weights = {key.replace(old, new) if ".attentions." in key else key: item for key, item in weights.items()}
        # Those of attention were convolutions of one position.
        return config, {
            key: item.flatten(1) if ".attentions." in key and item.ndim == 4 else item for key, item in weights.items()
        }

    def _built(self) -> Any:
        """The network without memory. The config gives values alone, to parameters that the class has."""
        import diffusers

        factory = getattr(diffusers, self.kind)
        known = inspect.signature(factory).parameters
        given = {key: value for key, value in self.config.items() if key in known}
        for key, value in given.items():
            depths = value if isinstance(value, list) else [value]
            listed = key.startswith(("num_", "layers_")) and any(isinstance(n, int) and n > DEEPEST for n in depths)
            if len(depths) > DEEPEST or listed:
                raise ConfigError(f"codec.path={self.path}: {key} of its config asks for more than {DEEPEST} layers")
        try:
            with _file.without_memory():
                return factory(**given)
        except Exception as error:  # of whatever kind a wrong value of the config causes there
            said = " ".join(str(error).split())
            raise ConfigError(f"codec.path={self.path}: diffusers refuses its config: {said:.300}") from None

    @property
    def factor(self) -> int:
        """By what the sides of an image are divided."""
        return int(2 ** (len(self.network.config.block_out_channels) - 1))

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        config, factor = self.network.config, self.factor
        if len(shape) != 3 or shape[0] != config.in_channels or any(side % factor for side in shape[1:]):
            raise ConfigError(
                f"codec={self.name} takes images of {config.in_channels} channels whose sides are multiples of "
                f"{factor}, but those of data=... have the shape {shape}; choose data=... of such images, or another "
                "codec"
            )
        return (config.latent_channels, shape[1] // factor, shape[2] // factor)

    def reconstruct(self, z: Tensor) -> Tensor:
        result: Tensor = self.network.decode(z).sample
        return result

    def fingerprint(self) -> str:
        known = {key: value for key, value in self.config.items() if not key.startswith("_")}
        return hash_of(json.dumps([self.name, known, self.draws], sort_keys=True), self.network.state_dict())

    def save(self, path: Path) -> None:
        _file.write(path, {"name": self.name, "config": self.config}, self.network.state_dict())


@register("codec", "diffusers_kl")
class DiffusersKL(DiffusersCodec):
    """AutoencoderKL of diffusers in the local folder ``path`` (config.json and safetensors), or the vae of a pipeline.

    Rombach et al. 2022. The latent is the mean of q(z | x), or drawn from it once for each example (posterior=draw).
    Shift and scale are measured on the data, in the place of its scaling_factor. It needs the extra diffusers.
    """

    kind: ClassVar[str] = "AutoencoderKL"
    name: ClassVar[str] = "diffusers_kl"

    def __init__(self, path: str | None = None, posterior: Literal["mean", "draw"] = "mean") -> None:
        super().__init__(path)
        self.draws = posterior == "draw"

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        found = self.network.encode(x).latent_dist
        return found.mean, found.std


@register("codec", "diffusers_tiny")
class DiffusersTiny(DiffusersCodec):
    """AutoencoderTiny of diffusers in the local folder ``path`` (config.json and safetensors).

    A small autoencoder with the latents of a large one; its encoder has no deviation. Shift and scale are measured on
    the data. It needs the extra diffusers.
    """

    kind: ClassVar[str] = "AutoencoderTiny"
    name: ClassVar[str] = "diffusers_tiny"

    def __init__(self, path: str | None = None) -> None:
        super().__init__(path)

    @property
    def factor(self) -> int:
        # Its first stage keeps the size; block_out_channels has one more than there are halvings, as for AutoencoderKL.
        return int(2 ** (len(self.network.config.encoder_block_out_channels) - 1))

    def posterior(self, x: Tensor) -> tuple[Tensor, None]:
        return self.network.encode(x).latents, None
