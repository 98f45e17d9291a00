"""How data sets without a published split are divided into training and held-out examples."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import PurePosixPath

import torch
from torch import Tensor


def held_out(labels: Tensor) -> Tensor:
    """(N,) bool: every fifth example in the order of the classes, so that both splits have the same class balance."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[labels.argsort(stable=True)[4::5]] = True
    return chosen


def uniform_hash(path: PurePosixPath) -> float:
    """A number in [0, 1) that depends only on the path, so that adding one example moves no other."""
    digest = hashlib.sha256(os.fsencode(path.as_posix())).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def hash_limit(lowest: float, highest: float, fraction: float) -> float:
    """The limit below which hashes are held out: ``fraction``, moved so that neither split is empty."""
    return min(max(fraction, math.nextafter(lowest, math.inf)), highest)
