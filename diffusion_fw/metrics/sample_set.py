"""Sets of examples as metrics compare them: their features, and what else a metric takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from diffusion_fw import cache
from diffusion_fw.data.dataset import Examples
from diffusion_fw.metrics.feature_statistics import BATCH, source
from diffusion_fw.metrics.features.extractor import FeatureExtractor
from diffusion_fw.registry import ConfigError

Part = Literal["features", "logits", "examples", "labels", "extremes"]


@dataclass(frozen=True)
class SampleSet:
    """Generated or real examples in the order of their indices, on the host. What no metric takes is None."""

    features: Tensor | None = None
    """float32 (N, D)."""
    logits: Tensor | None = None
    """float32 (N, K), of the features' own classifier."""
    examples: Tensor | None = None
    """As the data hold them: uint8 (N, C, H, W) or floats (N, *shape)."""
    labels: Tensor | None = None
    """int64 (N,), the class that was asked for or that the data state; None where there are no classes."""
    extremes: Tensor | None = None
    """The smallest and the largest value (N, 2) of each example, of the examples' type."""

    def __len__(self) -> int:
        return next(len(value) for value in self._parts().values())

    def __getitem__(self, chosen: slice | Tensor) -> SampleSet:
        """The set of the examples at these places."""
        return replace(self, **{name: value[chosen] for name, value in self._parts().items()})

    def _parts(self) -> dict[str, Tensor]:
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def vectors(self) -> Tensor:
        """The features; a metric that takes them has them."""
        assert self.features is not None
        return self.features

    @property
    def finite(self) -> Tensor:
        """Whether all parts of each example are finite: bool (N,)."""
        parts = [value.isfinite().flatten(1).all(1) for value in self._parts().values() if value.ndim > 1]
        return torch.stack([torch.ones(len(self), dtype=torch.bool), *parts]).all(0)

    @staticmethod
    def joined(sets: Sequence[SampleSet]) -> SampleSet:
        """The sets one after another."""
        names = [item.name for item in fields(SampleSet) if getattr(sets[0], item.name) is not None]
        return SampleSet(**{name: torch.cat([getattr(part, name) for part in sets]) for name in names})


@torch.no_grad()
def seen(
    features: FeatureExtractor | None,
    takes: Iterable[Part],
    examples: Tensor,
    labels: Tensor | None,
    device: torch.device,
) -> SampleSet:
    """A set of a chunk of examples, with the parts that are taken, computed in full precision even under autocast."""
    found: dict[str, Tensor | None] = {}
    if features is not None and {"features", "logits"} & set(takes):
        features.to(device)
        vectors, logits = [], []
        with torch.autocast(device.type, enabled=False):
            for part in examples.to(device).split(BATCH):
                vectors.append(features(part))
                if "logits" in takes:
                    logits.append(features.head(vectors[-1]).float().cpu())
        if "features" in takes:
            found["features"] = torch.cat([part.float().cpu() for part in vectors])
        if logits:
            found["logits"] = torch.cat(logits)
    if "examples" in takes:
        found["examples"] = examples.cpu()
    if "labels" in takes:
        found["labels"] = None if labels is None else labels.cpu()
    if "extremes" in takes:
        found["extremes"] = torch.stack(examples.flatten(1).aminmax(dim=1), dim=1).cpu()
    return SampleSet(**found)


def real_set(
    features: FeatureExtractor | None,
    takes: frozenset[Part],
    examples: Examples,
    indices: Sequence[int],
    device: torch.device,
    folder: Path,
) -> SampleSet:
    """The set of real examples at these indices; what the features give is cached by the content of both.

    Raises ConfigError if a feature is not finite.
    """
    given = SampleSet()
    if rest := takes - {"features", "logits"}:
        values, labels = examples.__getitems__(indices)
        given = seen(None, rest, values, labels, device)
    if features is None or rest == takes:
        return given

    def compute() -> cache.Tensors:
        parts = []
        for start in range(0, len(indices), BATCH):
            values, _ = examples.__getitems__(indices[start : start + BATCH])
            parts.append(seen(features, takes - rest, values, None, device))
        whole = SampleSet.joined(parts)
        return whole._parts()

    def check(found: cache.Tensors) -> None:
        if found.keys() != takes - rest or any(len(value) != len(indices) for value in found.values()):
            raise ValueError("it is of other examples")

    content = ("set", examples.fingerprint(), features.fingerprint(), source(features), list(indices), sorted(takes))
    key = hashlib.sha256(repr(content).encode()).hexdigest()
    found = cache.cached(folder / f"{key}.safetensors", compute, check)
    if not all(value.isfinite().all() for value in found.values()):
        raise ConfigError(f"features={features.name}: some features of the data are not finite; choose other features")
    return replace(given, **found)
