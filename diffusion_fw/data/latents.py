"""Data as a model of latents sees them, and the way from what the model makes back to examples."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion_fw import cache
from diffusion_fw.codecs.codec import Codec
from diffusion_fw.data.dataset import Data, Examples, InMemory, all_labels, evenly_spaced, from_model, to_model
from diffusion_fw.files import default_cache
from diffusion_fw.noise import SampleNoise
from diffusion_fw.registry import ConfigError, Positive, PositiveInt, convert

DEVIATIONS = 10.0
"""Latents have no bounds: x_0 of a model is only kept within so many deviations, or twice the largest latent."""
TOLERANCE = 0.1
"""How far mean and deviation of latents may be from those of the training, in deviations."""
CHECKED = 64
"""The examples that are encoded again, to see whether cached latents are those of the codec."""
ENCODED_AT_ONCE = 1 << 20
"""Values of examples that are encoded at once."""
SEED = 0
"""Of the draws from q(z | x): the latents of data are the same for every run."""


@dataclass(frozen=True)
class Statistics:
    """The mean and the deviation of latents, of each channel (C,), before shift and scale."""

    mean: Tensor
    deviation: Tensor

    @staticmethod
    def of(raw: Tensor) -> Statistics:
        """Over all examples and positions of latents (N, C, ...)."""
        variance, mean = torch.var_mean(raw, dim=[0, *range(2, raw.ndim)], correction=0)
        return Statistics(mean, variance.sqrt())

    def check(self, stored: Statistics, what: str) -> None:
        """ConfigError where mean or deviation differ by more than TOLERANCE from the ``stored`` ones."""
        fits = self.mean.shape == stored.mean.shape
        if fits:
            moved = ((self.mean - stored.mean).abs() / stored.deviation).tolist()
            scaled = (self.deviation / stored.deviation - 1).abs().tolist()
            worst = max(range(len(moved)), key=lambda channel: max(moved[channel], scaled[channel]))
            fits = max(moved[worst], scaled[worst]) <= TOLERANCE
        if fits:
            return
        found, wanted = (
            f"{len(item.mean)} channels"
            if self.mean.shape != stored.mean.shape
            else f"the mean {float(item.mean[worst]):.3g} and the deviation {float(item.deviation[worst]):.3g}"
            for item in (self, stored)
        )
        place = "" if self.mean.shape != stored.mean.shape else f" in channel {worst}"
        raise ConfigError(
            f"codec: {what} have {found}{place}, not {wanted}, which is more than {TOLERANCE:.0%} off: they are of "
            "another codec or of other data; give codec.path=... of the codec of the training, or train a model on "
            "these latents"
        )


@dataclass(frozen=True)
class Space:
    """What a model works on, and the examples that this stands for: the one place where samples leave latent space."""

    codec: Codec
    shape: tuple[int, ...]
    """Of an example."""
    pixels: bool
    """Whether the examples are images of 8-bit pixels."""
    bounds: tuple[float, float]
    """The smallest and the largest value of an example, in the scale of the model."""

    @staticmethod
    def of(data: Data, codec: Codec) -> Space:
        """That of a model of ``data`` through a codec."""
        return Space(codec, data.shape, data.pixels, data.bounds)

    def encode(self, x: Tensor) -> Tensor:
        """What the model works on, of examples x (B, *shape) in [-1, 1]."""
        return self.codec.to(x.device).encode(x)

    def decode(self, x: Tensor) -> Tensor:
        """Examples (B, *shape) in [-1, 1], not rounded, of what the model makes."""
        return self.codec.to(x.device).decode(x, self.shape)

    def drawn(self, normal: Tensor) -> Tensor:
        """Standard normal x, which no example has, to look at: two deviations within the bounds, or as latents."""
        if not self.codec.identity:
            return self.decode(normal)
        low, high = self.bounds
        return (low + high) / 2 + normal * (high - low) / 4

    def examples(self, x: Tensor) -> Tensor:
        """The same as the data hold them: uint8 pixels, or floats."""
        return from_model(self.decode(x), self.pixels)

    def record(self) -> dict[str, Any]:
        """What a checkpoint says about it; empty without a codec."""
        if self.codec.identity:
            return {}
        return {
            "fingerprint": self.codec.fingerprint(),
            "shift": self.codec.shift.tolist(),
            "scale": self.codec.scale.tolist(),
            "shape": list(self.shape),
            "pixels": self.pixels,
            "bounds": list(self.bounds),
        }

    def check_same(self, record: Mapping[str, Any] | None, what: str) -> None:
        """ConfigError where a record of latents, as of a run that continues, is not of latents like these."""
        if not record or self.codec.identity:
            return
        stored = _stored(record, what)
        found = Statistics(self.codec.shift.cpu(), self.codec.scale.cpu())
        found.check(stored, f"{what}: the latents of data=...")

    @staticmethod
    def recorded(codec: Codec, record: Mapping[str, Any], what: str) -> Space:
        """That of a checkpoint; ConfigError for another codec than that of the training, and for a damaged record."""
        stored = _stored(record, what)
        try:
            shape = convert(tuple[PositiveInt, ...], record["shape"])
            pixels, bounds = convert(bool, record["pixels"]), convert(tuple[float, float], record["bounds"])
            fingerprint = convert(str, record["fingerprint"])
        except (KeyError, TypeError, ValueError):
            raise ConfigError(f"{what}: what it says about its codec is damaged") from None
        channels = codec.latent_shape(shape)[0]
        if fingerprint != codec.fingerprint() or len(stored.mean) != channels:
            raise ConfigError(
                f"{what} was trained on the latents of another codec than codec.path=..., whose fingerprint is "
                f"{codec.fingerprint()}, not {fingerprint[:100]}; give codec.path=... of that of the training"
            )
        return Space(codec.standardised(stored.mean, stored.deviation), shape, pixels, bounds)


def _stored(record: Mapping[str, Any], what: str) -> Statistics:
    """Mean and deviation of a checkpoint's record."""
    try:
        shift = torch.tensor(convert(tuple[float, ...], record["shift"]))
        scale = torch.tensor(convert(tuple[Positive, ...], record["scale"]))
        if not 0 < len(shift) == len(scale):
            raise ValueError("not one for each channel")
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{what}: what it says about its codec is damaged") from None
    return Statistics(shift, scale)


def seen(data: Data, codec: Codec, device: torch.device) -> Data:
    """The data as a model sees them through a codec whose shift and scale are known: the data themselves, or latents.

    ``device`` is where examples are encoded. Raises ConfigError where mean or deviation of the latents are not those of
    the training.
    """
    if codec.identity:
        return data
    latents = Latents(data, codec, device)
    latents.statistics.check(Statistics(codec.shift.cpu(), codec.scale.cpu()), "the latents of data=...")
    return latents


def measured(data: Data, codec: Codec, device: torch.device) -> Data:
    """``seen``, after shift and scale were set such that the latents of the training examples have deviation 1.

    Raises ConfigError for latents of which a channel has no deviation.
    """
    if codec.identity:
        return data
    latents = Latents(data, codec, device)
    found = latents.statistics
    if not (found.mean.isfinite().all() and found.deviation.isfinite().all() and (found.deviation > 0).all()):
        raise ConfigError(
            f"codec: the latents of the training examples have the deviations {found.deviation.tolist()}, one for each "
            "channel, which must be above 0 and finite; train another codec, as with fewer latent_channels"
        )
    codec.standardised(found.mean, found.deviation)
    return latents


class Latents(Data):
    """The latents of data: encoded once, kept in the cache with their statistics, and held in memory as float32."""

    value_range: ClassVar[tuple[float, float] | None] = None

    def __init__(self, data: Data, codec: Codec, device: torch.device) -> None:
        self.examples, self.codec, self.device = data, codec, device
        self._shape = codec.latent_shape(data.shape)
        self._raw: dict[str, cache.Tensors] = {}

    @property
    def default_features(self) -> str:  # type: ignore[override]
        return self.examples.default_features

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.examples.class_names

    @property
    def division(self) -> str:
        return self.examples.division

    def captions(self, split: str) -> Sequence[str] | None:
        return self.examples.captions(split)

    def attributes(self, split: str) -> Tensor | None:
        return self.examples.attributes(split)

    @functools.cached_property
    def bounds(self) -> tuple[float, float]:
        """Beyond all latents of the training, so that clipping to them changes none."""
        limit = max(DEVIATIONS, 2 * float(self.train.values.abs().max()))  # type: ignore[attr-defined]
        return (-limit, limit)

    @property
    def statistics(self) -> Statistics:
        """Of the training examples."""
        found = self._encoded("train")
        return Statistics(found["mean"], found["deviation"])

    def load(self, split: str) -> InMemory:
        values = self.codec.cpu().standardise(self._encoded(split)["values"])
        return InMemory(values, all_labels(self._split(split)))

    def _split(self, split: str) -> Examples:
        return self.examples.train if split == "train" else self.examples.test

    def _encoded(self, split: str) -> cache.Tensors:
        if split in self._raw:
            return self._raw[split]
        examples = self._split(split)
        key = repr((examples.fingerprint(), self.codec.fingerprint()))
        path = default_cache() / "latents" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
        expected = {"values": (len(examples), *self.shape), "mean": self.shape[:1], "deviation": self.shape[:1]}

        def check(tensors: cache.Tensors) -> None:
            if {name: tuple(value.shape) for name, value in tensors.items()} != expected:
                raise ValueError("it holds other latents")

        known = path.exists()
        found = cache.cached(path, lambda: self._computed(examples), check)
        if known and len(examples):
            some = evenly_spaced(len(examples), CHECKED)
            again = Statistics.of(self._encode(examples, some).cpu())
            Statistics.of(found["values"][some]).check(again, f"the latents of the {split} examples in {path}")
        self._raw[split] = found
        return found

    def _computed(self, examples: Examples) -> cache.Tensors:
        size = max(1, ENCODED_AT_ONCE // math.prod(self.examples.shape))
        values = torch.empty(len(examples), *self.shape)
        for first in range(0, len(examples), size):
            part = range(first, min(first + size, len(examples)))
            values[part.start : part.stop] = self._encode(examples, part).cpu()
        found = Statistics.of(values)
        return {"values": values, "mean": found.mean, "deviation": found.deviation}

    def _encode(self, examples: Examples, indices: Any) -> Tensor:
        """Latents of the examples with these indices, before shift and scale."""
        x = to_model(examples.__getitems__(indices)[0]).to(self.device)
        noise = SampleNoise(SEED, indices, self.device) if self.codec.draws else None
        return self.codec.to(self.device).raw(x, noise)
