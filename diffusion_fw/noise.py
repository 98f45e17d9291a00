"""Seeded randomness that does not depend on the batch size, the number of processes or earlier draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

STREAMS = 8
"""The streams of training noise: 1, 2, 4 or 8 processes draw the same noise for the global batch."""


def generators(*key: int, count: int) -> list[torch.Generator]:
    """``count`` independent CPU generators for a key of non-negative integers (seed, purpose, step, ...)."""
    # The length is part of the key: (1, 2) and (1, 2, 0) are the same seed sequence.
    seeds = np.random.SeedSequence((len(key), *key)).generate_state(count, np.uint64) >> np.uint64(1)
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def generator(*key: int) -> torch.Generator:
    """The generator for a key."""
    return generators(*key, count=1)[0]


class SampleNoise:
    """Standard normal noise in which sample i depends on (seed, i) alone, not on its batch.

    Called with x (B, ...), one row for each of the indices, it draws like x: contiguous, on the host, then moved.
    """

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        self._generators = [generator(seed, index) for index in indices]

    def __call__(self, like: Tensor) -> Tensor:
        rows = [torch.randn(like.shape[1:], generator=source) for source in self._generators]
        return torch.stack(rows).to(device=like.device, dtype=like.dtype, non_blocking=True)


def batch_noise(like: Tensor, key: tuple[int, ...], rank: int = 0, world_size: int = 1) -> Tensor:
    """This process's part of the standard normal noise of a global training batch.

    Row j of ``like`` (B, ...) is row j * world_size + rank of the global batch. Global row p is drawn from stream
    p mod STREAMS, so the global batch's noise is the same for every world_size that divides STREAMS.
    """
    streams = math.lcm(STREAMS, world_size)
    result = torch.empty(like.shape, dtype=torch.float32)
    sources = generators(*key, count=streams)
    stride = streams // world_size
    for start in range(min(stride, len(result))):
        rows = result[start::stride]
        rows.copy_(torch.randn(rows.shape, generator=sources[start * world_size + rank]))
    return result.to(device=like.device, dtype=like.dtype, non_blocking=True)
