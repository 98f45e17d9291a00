"""Sums of features over examples, from which Fréchet distances are computed, cached in files."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffusion_fw import cache
from diffusion_fw.data.dataset import Examples
from diffusion_fw.metrics.features.extractor import FeatureExtractor
from diffusion_fw.npz import read_npz
from diffusion_fw.registry import ConfigError

BATCH = 250
LIBRARIES = ("abc", "builtins", "torch")
"""Their code is not part of what defines features."""
LARGEST = 1 << 30
"""Bytes of a file of statistics; those of 2048 features have 34 million."""


@dataclass(frozen=True)
class Statistics:
    """n (), sum_i phi(x_i) (D,) and sum_i phi(x_i) phi(x_i)^T (D, D), in float64 on the host."""

    count: Tensor
    total: Tensor
    outer: Tensor

    def without(self, part: Statistics) -> Statistics:
        """Those of the other examples."""
        return Statistics(self.count - part.count, self.total - part.total, self.outer - part.outer)

    def to(self, device: torch.device) -> Statistics:
        """The same on a device."""
        return Statistics(self.count.to(device), self.total.to(device), self.outer.to(device))


@dataclass(frozen=True)
class Fitted:
    """The Gaussian of statistics: its mean (D,), a factor (D, R) of the covariance F F^T of rank R, and its trace."""

    mean: Tensor
    factor: Tensor
    trace: Tensor

    @staticmethod
    def of(statistics: Statistics) -> Fitted:
        """The mean and the unbiased covariance."""
        count = statistics.count
        mean = statistics.total / count
        covariance = (statistics.outer - count * torch.outer(mean, mean)) / (count - 1)
        values, vectors = torch.linalg.eigh(covariance)
        # Smaller ones are those of rounding. Their roots would not be small: sqrt(1e-16) is 1e-8, a thousand times.
        size = statistics.outer.diagonal().max() / count
        kept = values > len(values) * torch.finfo(values.dtype).eps * size
        return Fitted(mean, vectors[:, kept] * values[kept].sqrt(), covariance.trace())

    def to(self, device: torch.device) -> Fitted:
        """The same on a device."""
        return Fitted(self.mean.to(device), self.factor.to(device), self.trace.to(device))

    def distance(self, other: Fitted) -> Tensor:
        """The Fréchet distance d^2: tr (C C_r)^(1/2) is the sum of the singular values of F^T F_r."""
        cross = torch.linalg.svdvals(self.factor.T @ other.factor).sum()
        total: Tensor = (self.mean - other.mean).square().sum() + self.trace + other.trace - 2 * cross
        return total


@dataclass(frozen=True)
class StatisticsFile:
    """Published statistics of features, and a hash of the file."""

    statistics: Statistics
    fingerprint: str

    @staticmethod
    def read(path: str, features: FeatureExtractor) -> StatisticsFile:
        """The mean ``mu`` (D,) and the covariance ``sigma`` (D, D) of an npz file, with D the number of the features.

        Other arrays of the file are ignored. Raises ConfigError for another file and for statistics of other features.
        """
        key = f"metric.reference={path}"
        try:
            arrays = read_npz(path, LARGEST, wanted=("mu", "sigma"))
        except ConfigError as error:
            raise ConfigError(f"{key}: must be train, test or an npz file of mu and sigma: {error}") from None
        size = features.num_features
        shapes = {name: tuple(value.shape) for name, value in arrays.items()}
        if shapes != {"mu": (size,), "sigma": (size, size)}:
            held = ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items())) or "neither mu nor sigma"
            raise ConfigError(
                f"{key}: it holds {held}, but features={features.name} has mu ({size},) and sigma ({size}, {size}); "
                "choose the features that it was made with"
            )
        mean, covariance = (arrays[name].double() for name in ("mu", "sigma"))
        asymmetry = (covariance - covariance.T).abs().max()
        if not (mean.isfinite().all() and covariance.isfinite().all()) or asymmetry > 1e-6 * covariance.abs().max():
            raise ConfigError(f"{key}: mu and sigma must be finite, and sigma symmetric")
        # The distance depends on mean and covariance alone: any number of examples does.
        count = 2
        outer = (count - 1) * covariance + count * torch.outer(mean, mean)
        content = hashlib.sha256(mean.numpy().tobytes() + covariance.numpy().tobytes())
        return StatisticsFile(Statistics(torch.tensor(count), count * mean, outer), content.hexdigest()[:16])


def extract(features: FeatureExtractor, examples: Tensor) -> Tensor:
    """float64 features (B, D) without gradients, computed in full precision even under autocast."""
    with torch.no_grad(), torch.autocast(examples.device.type, enabled=False):
        found: Tensor = features(examples)
        return found.double()


def of_vectors(vectors: Tensor, device: torch.device) -> Statistics:
    """The statistics of features (N, D), on a device."""
    total = torch.zeros(vectors.shape[1], dtype=torch.float64, device=device)
    outer = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64, device=device)
    for part in vectors.split(BATCH):
        batch = part.to(device).double()
        total += batch.sum(0)
        outer += batch.T @ batch
    return Statistics(torch.tensor(len(vectors), device=device), total, outer)


def compute(features: FeatureExtractor, examples: Examples, indices: Sequence[int], device: torch.device) -> Statistics:
    """The statistics of the examples at these indices. Raises ConfigError if a feature is not finite."""
    features.to(device)
    count = 0
    total = torch.zeros(features.num_features, dtype=torch.float64, device=device)
    outer = torch.zeros(features.num_features, features.num_features, dtype=torch.float64, device=device)
    for start in range(0, len(indices), BATCH):
        values, _ = examples.__getitems__(indices[start : start + BATCH])
        batch = extract(features, values.to(device))
        count += len(batch)
        total += batch.sum(0)
        outer += batch.T @ batch
    if not outer.isfinite().all():
        raise ConfigError(f"features={features.name}: some features of the data are not finite; choose other features")
    return Statistics(torch.tensor(count), total.cpu(), outer.cpu())


def cached(
    features: FeatureExtractor, examples: Examples, indices: Sequence[int], device: torch.device, folder: Path
) -> Statistics:
    """``compute``, cached by the content of examples and features and by the source of the features.

    A damaged cache file is replaced.
    """
    content = (examples.fingerprint(), features.fingerprint(), source(features), list(indices))
    key = hashlib.sha256(repr(content).encode()).hexdigest()

    def check(found: cache.Tensors) -> None:
        shapes = {name: (tuple(value.shape), value.dtype) for name, value in found.items()}
        size = features.num_features
        expected = {
            "count": ((), torch.int64),
            "total": ((size,), torch.float64),
            "outer": ((size, size), torch.float64),
        }
        if shapes != expected:
            raise ValueError(f"it holds {shapes}")
        if found["count"] != len(indices):
            raise ValueError(f"it is of {found['count']} examples instead of {len(indices)}")
        if not (found["total"].isfinite().all() and found["outer"].isfinite().all()):
            raise ValueError("its sums are not finite")
        asymmetry = (found["outer"] - found["outer"].T).abs().max()
        if asymmetry > 1e-6 * found["outer"].abs().max():
            raise ValueError("its products are not symmetric")

    path = folder / f"{features.name}-{key[:24]}.safetensors"
    return Statistics(**cache.cached(path, lambda: vars(compute(features, examples, indices, device)), check))


def source(features: FeatureExtractor) -> str:
    """The source of the modules that define the features, so that changed code computes its own statistics."""
    parts = (*type(features).__mro__, *map(type, features.modules()), features.resize)
    modules = {part.__module__ for part in parts if part is not None}
    found = []
    for name in sorted(modules):
        if name.partition(".")[0] in LIBRARIES:
            continue
        try:
            found.append(inspect.getsource(sys.modules[name]))
        except (KeyError, OSError, TypeError):  # defined in an interactive session
            continue
    return "".join(found)
