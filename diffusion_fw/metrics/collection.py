"""The one pass over the samples of an evaluation, which all its metrics share."""

from __future__ import annotations

import functools
import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import diffusion_fw
from diffusion_fw import cache
from diffusion_fw.metrics.feature_statistics import source
from diffusion_fw.metrics.features.extractor import FeatureExtractor
from diffusion_fw.metrics.sample_set import Part, SampleSet, seen
from diffusion_fw.sampling.share import rank, world_size

Quantise = Callable[[Tensor], Tensor]
"""From samples in the model's scale to pixels, as a protocol rounds them."""
Rounded = Callable[[Quantise | None], Tensor]
"""A chunk of samples as pixels by the rule of a protocol; None: as the data hold them."""
Draw = Callable[[Sequence[int]], tuple[Rounded, Tensor | None]]
"""The samples with these indices, and their classes if they have some."""

OF_FEATURES: frozenset[Part] = frozenset({"features", "logits"})


@dataclass(frozen=True)
class Want:
    """What a metric wants of the first ``count`` samples."""

    count: int
    takes: frozenset[Part]
    features: FeatureExtractor | None = None
    quantise: Quantise | None = None
    """How its features' samples are rounded."""


@dataclass
class Collection:
    """Draws samples once for several metrics, shared by all processes, and goes on where an earlier pass ended.

    Each chunk is kept in ``folder`` until ``finish``, under a name that states ``identity``, all that the samples
    depend on. Process r of R draws the chunks r, r + R, ..., and each gets all of them. The samples and their order
    do not depend on R.
    """

    draw: Draw
    wants: Sequence[Want]
    batch_size: int
    device: torch.device
    folder: Path
    identity: Any
    seconds: float = field(default=0.0, init=False)
    """What drawing took in this process."""
    drawn: int = field(default=0, init=False)
    """The samples that this process drew; the others were there."""
    _fingerprints: dict[FeatureExtractor, str] = field(default_factory=dict, init=False)

    @property
    def count(self) -> int:
        """The number of samples that are drawn."""
        return max(want.count for want in self.wants)

    def __call__(self, count: int, takes: frozenset[Part], features: FeatureExtractor | None) -> SampleSet:
        """The first ``count`` samples with these parts, which are among the wants. The first call draws all."""
        names = {part: self._name(part, features) for part in takes}
        return SampleSet(**{part: self._all[name][:count] for part, name in names.items() if name in self._all})

    def draw_all(self) -> None:
        """Draw the samples now, while all processes are there."""
        _ = self._all

    def finish(self) -> None:
        """Forget the chunks: the evaluation has ended. Called by one process."""
        shutil.rmtree(self._place, ignore_errors=True)

    def _name(self, part: Part, features: FeatureExtractor | None) -> str:
        """Equal for parts that are the same tensor."""
        if features is None or part not in OF_FEATURES:
            return part
        if features not in self._fingerprints:
            self._fingerprints[features] = features.fingerprint()
        return f"{part}/{self._fingerprints[features]}"

    @functools.cached_property
    def _parts(self) -> dict[tuple[FeatureExtractor | None, Quantise | None], set[Part]]:
        """The parts that are wanted of each extractor with its rounding, and of none."""
        found: dict[tuple[FeatureExtractor | None, Quantise | None], set[Part]] = {}
        for want in self.wants:
            if of_features := want.takes & OF_FEATURES:
                found.setdefault((want.features, want.quantise), set()).update(of_features)
            if rest := want.takes - OF_FEATURES:
                found.setdefault((None, None), set()).update(rest)
        return found

    @functools.cached_property
    def _place(self) -> Path:
        sources = [source(want.features) for want in self.wants if want.features is not None]
        names = sorted(self._name(part, features) for (features, _), parts in self._parts.items() for part in parts)
        versions = (diffusion_fw.__version__, torch.__version__)
        content = repr((self.identity, names, sources, versions, self.batch_size, self.device.type))
        return self.folder / f"samples-{hashlib.sha256(content.encode()).hexdigest()[:24]}"

    @functools.cached_property
    def _all(self) -> dict[str, Tensor]:
        starts, processes = range(0, self.count, self.batch_size), world_size()
        chunks: dict[int, cache.Tensors] = {}
        with tqdm(total=self.count, desc="sampling", unit="sample", disable=rank() > 0) as bar:
            for first in starts[rank() :: processes]:
                indices = range(first, min(first + self.batch_size, self.count))
                path = self._place / f"{indices[0]}-{indices[-1]}.safetensors"
                chunks[first] = cache.cached(path, functools.partial(self._chunk, indices), _check(len(indices)))
                bar.update(min(len(indices) * processes, self.count - bar.n))
        if processes > 1:
            parts: list[Any] = [None] * processes
            torch.distributed.all_gather_object(parts, chunks)
            chunks = {first: chunk for part in parts for first, chunk in part.items()}
        return {name: torch.cat([chunks[first][name] for first in starts]) for name in chunks[0]}

    def _chunk(self, indices: range) -> cache.Tensors:
        began = time.perf_counter()
        rounded, labels = self.draw(indices)
        found: cache.Tensors = {}
        for (features, quantise), parts in self._parts.items():
            given = seen(features, parts, rounded(quantise), labels, self.device)
            values = {self._name(part, features): getattr(given, part) for part in parts}
            found |= {name: value for name, value in values.items() if value is not None}
        self.seconds += time.perf_counter() - began
        self.drawn += len(indices)
        return found


def _check(count: int) -> Callable[[cache.Tensors], None]:
    def check(found: cache.Tensors) -> None:
        if any(len(value) != count for value in found.values()):
            raise ValueError("it is of other samples")

    return check
