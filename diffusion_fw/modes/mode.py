"""The base of every mode of sample.py, and the model that it works with."""

from __future__ import annotations

import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.condition import on
from diffusion_fw.conditions.conditioner import Asking, Cond, Conditioner
from diffusion_fw.data.dataset import Data, all_labels, to_model
from diffusion_fw.data.formats.given_images import read_images
from diffusion_fw.data.latents import Space
from diffusion_fw.denoiser import Denoiser
from diffusion_fw.metrics.features.extractor import FeatureExtractor
from diffusion_fw.noise import SampleNoise, generator, seeds
from diffusion_fw.pictures.view import View
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.grid import Grid
from diffusion_fw.samplers.sampler import Sampler
from diffusion_fw.sampling.draw import draw, start
from diffusion_fw.sampling.share import shared

DECODING_STREAM = 16
SHOWN = 8
"""The most rows of a picture."""

Images = str | tuple[str, ...] | None
"""Image files, or one file, folder or zip; None for held-out examples."""

UNTOLD = Conditioner()

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A trained model as a mode uses it: with its guidance, its sampler and, if a mode asks for them, its data.

    Examples x_0, as it takes and gives them, are in the scale of the model, and so is x_T. A model of latents
    encodes and decodes them: x_T then has the ``shape`` of latents. Results are on the host. Several processes that
    `torchrun` started share what the sampler does, and each gets all of it.
    """

    denoiser: Denoiser
    sampler: Sampler
    shape: tuple[int, ...]
    """Of what the model works on."""
    space: Space
    """What that stands for: the examples."""
    class_names: tuple[str, ...]
    """Of a model that takes labels; otherwise empty."""
    chosen: tuple[int, ...]
    """The classes that the command line chooses; empty without."""
    class_of: Callable[[Sequence[int]], Tensor | None]
    """The class of each sample, int64, by its index; None for a model that takes no labels."""
    load_data: Callable[[], Data]
    load_features: Callable[[], FeatureExtractor]
    view: View
    num_samples: int
    batch_size: int
    seed: int
    device: torch.device
    folder: Path
    null_class: bool = False
    """Whether a model that takes labels also learned to do without."""
    record: Mapping[str, Any] | None = None
    """What files of samples say about what made them (diffusion_fw/provenance.py); None for nothing."""
    conditioner: Conditioner = UNTOLD
    """What the model is told besides classes."""
    asking: Asking | None = None
    """What the samples of a model with conditions are told; None for one without."""

    @property
    def pixels(self) -> bool:
        """Whether the examples are images of 8-bit pixels."""
        return self.space.pixels

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value of the examples."""
        return self.space.bounds

    @functools.cached_property
    def data(self) -> Data:
        """The data of the training, or others that the command line chooses."""
        return self.load_data()

    @functools.cached_property
    def features(self) -> FeatureExtractor:
        """The features of the training, or others that the command line chooses."""
        return self.load_features()

    def indices(self, count: int | None = None) -> Iterator[range]:
        """The indices of ``count`` samples, by default all, in chunks of the batch size."""
        count = self.num_samples if count is None else count
        for first in range(0, count, self.batch_size):
            yield range(first, min(first + self.batch_size, count))

    def cond_of(self, indices: Sequence[int]) -> Any:
        """What each sample is told, on the host: its class, a Condition, or None."""
        return self.asking.cond_of(indices) if self.asking else self.class_of(indices)

    def cond(self, indices: Sequence[int]) -> Any:
        """What each sample is told, on the device."""
        return on(self.cond_of(indices), self.device)

    def start(self, indices: Sequence[int]) -> tuple[Tensor, SampleNoise]:
        """x_T of the samples with these indices, and the noise of their later steps."""
        return start(self.denoiser, self.shape, indices, self.seed, self.device)

    def draw(self) -> Iterator[tuple[Sequence[int], Tensor]]:
        """The samples x_0 on the device in chunks: (indices, x). All processes share the drawing."""
        chunks = list(self.indices())
        for indices, x in zip(chunks, shared(lambda indices: self._drawn(indices).cpu(), chunks), strict=True):
            yield indices, x.to(self.device)

    def _drawn(self, indices: Sequence[int]) -> Tensor:
        size, told = len(indices), self.cond_of
        sampler, denoiser, shape = self.sampler, self.denoiser, self.shape
        ((_, x),) = draw(
            sampler, denoiser, shape, indices, seed=self.seed, cond_of=told, batch_size=size, device=self.device
        )
        return self.space.decode(x)

    def held_out(self, *, paired: bool = False) -> tuple[Tensor, Cond]:
        """``num_samples`` held-out examples x_0 in a random order, and what the model is told of them.

        They are of the classes that the command line chooses, if it does. ``paired``: for a model that takes labels,
        the first two are of one class, and so are the next two. Raises ConfigError where there are none, and warns
        where there are fewer.
        """
        test = self.data.test
        order = torch.randperm(len(test), generator=generator(self.seed)).tolist()
        labels = all_labels(test) if self.chosen or (paired and self.class_names) else None
        if self.chosen:
            order = [] if labels is None else [index for index in order if int(labels[index]) in self.chosen]
        which = f"held-out examples of class={list(self.chosen)}" if self.chosen else "held-out examples"
        if not order and self.chosen:
            raise ConfigError(f"class={list(self.chosen)}: data=... has no {which}; leave class out, or choose others")
        if not order:
            raise ConfigError(
                "data=... has no held-out examples, which this mode takes; choose other data, or another mode"
            )
        if paired and labels is not None:
            order, which = pairs_of(order, labels[order].tolist()), f"{which} in pairs of one class"
        if paired and len(order) < 2:
            raise ConfigError(f"data=... has no two {which}, which this mode takes; choose other data, or another mode")
        if len(order) < self.num_samples:
            logger.warning("num_samples=%d: there are only %d %s, which are used", self.num_samples, len(order), which)
        places = order[: self.num_samples]
        values, told = self.conditioner.annotated(test, self.data, "test").__getitems__(places)
        x0 = to_model(values)
        if not self.conditioner.sources:
            # Labels may be those of a guidance.
            return x0, told if self.class_names else None
        return x0, self.conditioner.whole(x0, told, self.conditioner.seeded(self.seed, places))

    def given(self, images: str | Sequence[str], key: str, *, paired: bool = False) -> tuple[Tensor, Cond]:
        """The ``images`` that a key of the mode names, as x_0, and what the model is told of them.

        The classes that the command line chooses are theirs in turn. Without, the model is evaluated without labels, if
        it learned to. Raises ConfigError for images that the model cannot take, and where they or their classes make no
        pairs, ``paired``.
        """
        if not self.pixels or len(self.space.shape) != 3:
            shape = self.space.shape
            raise ConfigError(f"{key}: the model's examples, of shape {shape}, are no images of 8-bit pixels")
        x0 = to_model(read_images(images, self.space.shape, key))
        if paired and len(x0) % 2:
            raise ConfigError(f"{key}: {len(x0)} images make no pairs; give an even number")
        if self.asking:
            return x0, self.asking.of_given(x0)
        if not self.class_names:
            return x0, None
        if not self.chosen and not self.null_class:
            raise ConfigError(
                f"{key}: the model takes labels, and learned nothing without (label_dropout=0); class=3 or class=[3,5] "
                "says the classes of the images"
            )
        if not self.chosen:
            return x0, None
        classes = torch.tensor(self.chosen)[torch.arange(len(x0)) % len(self.chosen)]
        if paired and not torch.equal(classes[0::2], classes[1::2]):
            raise ConfigError(
                f"class={list(self.chosen)}: both images of a pair need one class, as there is none between; give one, "
                "or leave class out, and the model gets no label"
            )
        return x0, classes

    def examples(self, images: str | Sequence[str] | None, *, paired: bool = False) -> tuple[Tensor, Cond]:
        """The images that mode.images names (``given``), or without ``held_out`` examples."""
        return self.held_out(paired=paired) if images is None else self.given(images, "mode.images", paired=paired)

    def encode(self, x0: Tensor, told: Cond, sampler: Sampler | None = None) -> Tensor:
        """x_T of x_0 by the reversed sampler; ConfigError for a sampler that cannot encode."""
        return self._mapped((sampler or self.sampler).encode, self.enter(x0), told)

    def decode(self, x: Tensor, told: Cond, sampler: Sampler | None = None) -> Tensor:
        """x_0 of x_T; the noise of a stochastic sampler belongs to the place of x_T in the batch."""
        return self.leave(self._mapped(sampler or self.sampler, x, told, noisy=True))

    def enter(self, x0: Tensor) -> Tensor:
        """What the model works on, of examples: their latents, or the examples themselves."""
        return torch.cat(
            [self.space.encode(x0[part.start : part.stop].to(self.device)).cpu() for part in self.indices(len(x0))]
        )

    def leave(self, x: Tensor) -> Tensor:
        """Examples of what the model works on, such as x_t: decoded latents, or x itself."""
        return torch.cat(
            [self.space.decode(x[part.start : part.stop].to(self.device)).cpu() for part in self.indices(len(x))]
        )

    def _mapped(self, function: Callable[..., Tensor], x: Tensor, told: Cond, noisy: bool = False) -> Tensor:
        # Not the noise of which x_T is made.
        (decoding,) = seeds(self.seed, DECODING_STREAM, count=1)

        def mapped(indices: range) -> Tensor:
            rows = slice(indices.start, indices.stop)
            cond = None if told is None else on(told[rows], self.device)
            noise = {"noise": SampleNoise(decoding, indices, self.device)} if noisy else {}
            return function(self.denoiser, x[rows].to(self.device), cond=cond, **noise).cpu()

        return torch.cat(list(shared(mapped, list(self.indices(len(x))))))

    @property
    def sigma(self) -> float:
        """The standard deviation of x_T of data of scale 1, at the first time of the sampler's grid."""
        return float(self.sampler.levels(self.denoiser.schedule).sigma[0])


def pairs_of(items: Sequence[int], classes: Sequence[int]) -> list[int]:
    """The items in such an order that items 0 and 1 are of one class, 2 and 3, ...; one without a partner is left out.

    Each is paired with the next one of its class.
    """
    waiting: dict[int, int] = {}
    found: list[int] = []
    for item, label in zip(items, classes, strict=True):
        if label in waiting:
            found += [waiting.pop(label), item]
        else:
            waiting[label] = item
    return found


@dataclass(frozen=True)
class Outcome:
    """What a mode found: the arrays of its npz, its pictures, and the rows of the printed table."""

    arrays: Mapping[str, Tensor]
    pictures: Sequence[Path]
    rows: Mapping[str, str] = field(default_factory=dict)


class Mode(ABC):
    """A choice of `python sample.py mode=...`."""

    @abstractmethod
    def __call__(self, model: Model) -> Outcome:
        """Do it, and draw pictures into ``model.folder``; ConfigError for a model or a sampler that it cannot use."""


@dataclass(frozen=True)
class Rest(Grid):
    """Given times: those of a grid from some time on."""

    times: tuple[float, ...]

    on_rows = False

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        return torch.tensor(self.times, dtype=torch.float64)


def from_time(sampler: Sampler, schedule: Schedule, t: float) -> Sampler:
    """The sampler that starts at the time of its grid that is nearest to t."""
    times = sampler.grid(sampler.steps, schedule)[:-1]
    rest = times[int((times - t).abs().argmin()) :]
    return replace(sampler, steps=len(rest), grid=Rest(tuple(rest.tolist())))
