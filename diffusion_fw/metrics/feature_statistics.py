"""Sums of features over examples, from which Fréchet distances are computed, cached in files."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from diffusion_fw.data.dataset import Examples
from diffusion_fw.files import atomic_write
from diffusion_fw.metrics.features.extractor import FeatureExtractor

BATCH = 250

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Statistics:
    """n (), sum_i phi(x_i) (D,) and sum_i phi(x_i) phi(x_i)^T (D, D), in float64 on the host."""

    count: Tensor
    total: Tensor
    outer: Tensor


def extract(features: FeatureExtractor, examples: Tensor) -> Tensor:
    """float64 features (B, D) without gradients, computed in full precision even under autocast."""
    with torch.no_grad(), torch.autocast(examples.device.type, enabled=False):
        found: Tensor = features(examples)
        return found.double()


def compute(features: FeatureExtractor, examples: Examples, indices: Sequence[int], device: torch.device) -> Statistics:
    """The statistics of the examples at these indices."""
    count = 0
    total = torch.zeros(features.num_features, dtype=torch.float64, device=device)
    outer = torch.zeros(features.num_features, features.num_features, dtype=torch.float64, device=device)
    for start in range(0, len(indices), BATCH):
        values, _ = examples.__getitems__(indices[start : start + BATCH])
        batch = extract(features, values.to(device))
        count += len(batch)
        total += batch.sum(0)
        outer += batch.T @ batch
    return Statistics(torch.tensor(count), total.cpu(), outer.cpu())


def cached(
    features: FeatureExtractor, examples: Examples, indices: Sequence[int], device: torch.device, folder: Path
) -> Statistics:
    """``compute``, cached by the fingerprints of examples and features; a damaged cache file is replaced.

    Files are replaced atomically, so that processes can share the folder. If it cannot be written, the statistics are
    computed each time, with a warning.
    """
    key = hashlib.sha256(repr((examples.fingerprint(), features.fingerprint(), list(indices))).encode()).hexdigest()
    path = folder / f"{features.name}-{key[:24]}.safetensors"
    try:
        return _read(path, features.num_features)
    except FileNotFoundError:
        pass
    except (OSError, SafetensorError, ValueError) as error:
        logger.warning("the cached statistics %s are damaged (%s); computing them again", path, error)
    statistics = compute(features, examples, indices, device)
    try:
        with atomic_write(path) as file:
            file.write(save({"count": statistics.count, "total": statistics.total, "outer": statistics.outer}))
    except OSError as error:
        logger.warning("the statistics could not be cached: %s", error)
    return statistics


def _read(path: Path, num_features: int) -> Statistics:
    content = load(path.read_bytes())
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in content.items()}
    expected = {
        "count": ((), torch.int64),
        "total": ((num_features,), torch.float64),
        "outer": ((num_features, num_features), torch.float64),
    }
    if shapes != expected:
        raise ValueError(f"it holds {shapes}")
    return Statistics(**content)
