"""A training step with callbacks.health, against the same step without: the costliest case, a tiny network."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

import diffusion_fw as dfw
from benchmarks.row import Row
from benchmarks.timing import compared
from benchmarks.training_step import BATCH, ROUNDS, ours

BOUND = 1.25


def measure() -> Iterator[Row]:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    points = torch.randn(4096, 2)
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(ROUNDS):
            watched = ours(points, Path(folder) / f"{index}a", dfw.build("callbacks", "health", folder=Path(folder)))
            pairs.append((watched, ours(points, Path(folder) / f"{index}b")))
    name = f"training step with the health callback, default MLP on 2-D points, batch {BATCH}"
    yield compared(name, "the same step without it", pairs, BOUND)
