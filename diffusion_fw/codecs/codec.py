"""What a codec is: the way from examples to latents and back.

A model of latents (Rombach et al. 2022) works on z in place of x. A codec has an encoder, which gives a Gaussian
q(z | x) = N(m(x), s(x)^2), and a decoder D:

    z = (m(x) + s(x) n - shift) / scale,    x = D(scale z + shift),    n standard normal, or 0.

``shift`` and ``scale`` are one number for each channel. With the mean and the deviation of the latents of the data, z
has mean 0 and deviation 1, which is what the schedules are made for.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from diffusion_fw.registry import register

Noise = Callable[[Tensor], Tensor]
"""noise(like) draws standard normal noise like a tensor."""

FILE = "codec.safetensors"
"""What a codec's file is called beside a checkpoint."""
DECODED_AT_ONCE = 1 << 20
"""The most values of examples that the decoder makes at once, unless one example has more."""


class Codec(nn.Module, ABC):
    """Examples x (B, *shape) in the scale of the model <-> latents z (B, *latent_shape(shape)).

    Define ``latent_shape``, ``posterior``, ``reconstruct`` and ``fingerprint``, and of a codec with weights a parameter
    ``path`` and ``save``. Gradients are not taken.
    """

    identity: ClassVar[bool] = False
    """Whether latents are the examples themselves."""
    draws: bool = False
    """Whether latents are drawn from q(z | x), rather than its mean."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(1), persistent=False)
        self.register_buffer("scale", torch.ones(1), persistent=False)

    @abstractmethod
    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the latent of an example of ``shape``; ConfigError for one that the codec does not take."""

    @abstractmethod
    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The mean and the deviation of q(z | x), before shift and scale; None for a codec that has no deviation."""

    @abstractmethod
    def reconstruct(self, z: Tensor) -> Tensor:
        """D of z, before shift and scale."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of all on which ``posterior`` and ``reconstruct`` depend."""

    def save(self, path: Path) -> None:
        """Write one file with the weights, from which the component is built by ``path``; nothing without weights."""

    def standardised(self, shift: Tensor, scale: Tensor) -> Codec:
        """This codec, changed in place: its latents become (z - shift) / scale, for each channel (C,)."""
        self.shift, self.scale = shift.to(self.shift.device).float(), scale.to(self.scale.device).float()
        return self

    @torch.no_grad()
    def raw(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """z before shift and scale: the mean of q(z | x), or drawn from it with ``noise``; computed in float32."""
        with torch.autocast(x.device.type, enabled=False):
            mean, deviation = self.posterior(x.float())
        return mean if noise is None or deviation is None else mean + deviation * noise(mean)

    def standardise(self, raw: Tensor) -> Tensor:
        """z of ``raw``."""
        return (raw - _along_channels(self.shift, raw)) / _along_channels(self.scale, raw)

    def encode(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """z of x, by the mean of q(z | x), or drawn from it with ``noise``."""
        return self.standardise(self.raw(x, noise))

    @torch.no_grad()
    def decode(self, z: Tensor, shape: tuple[int, ...]) -> Tensor:
        """x (B, *shape) of z, in parts of at most DECODED_AT_ONCE values; computed in float32."""
        size = max(1, DECODED_AT_ONCE // math.prod(shape))
        whole = _along_channels(self.scale, z) * z.float() + _along_channels(self.shift, z)
        with torch.autocast(z.device.type, enabled=False):
            return torch.cat([self.reconstruct(part) for part in whole.split(size)])


def _along_channels(values: Tensor, z: Tensor) -> Tensor:
    """Values (C,) or (1,) that multiply z (B, C, ...)."""
    return values.to(z.device).view(1, -1, *[1] * (z.ndim - 2))


@register("codec", "none")
class NoCodec(Codec):
    """Latents are the examples themselves: the model works on what the data hold."""

    identity: ClassVar[bool] = True

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def posterior(self, x: Tensor) -> tuple[Tensor, None]:
        return x, None

    def reconstruct(self, z: Tensor) -> Tensor:
        return z

    # To the bit, and of any precision.
    def encode(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        return x

    def decode(self, z: Tensor, shape: tuple[int, ...]) -> Tensor:
        return z

    def fingerprint(self) -> str:
        return "none"


def hash_of(what: str, weights: dict[str, Tensor]) -> str:
    """A hash of a description and of tensors by their names."""
    content = hashlib.sha256(what.encode())
    for key, value in sorted(weights.items()):
        content.update(repr((key, value.dtype, tuple(value.shape))).encode())
        content.update(value.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]
