"""Seeded randomness that does not depend on the batch size, the number of processes or earlier draws.

On a GPU noise is drawn there, by a counter-based generator: one kernel, no copy and no wait. Elsewhere torch's
generators draw it on the host. The two give different noise for the same seed; each is a function of it alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffusion_fw import philox

STREAMS = 8
"""The streams of training noise on the host: 1, 2, 4 or 8 processes draw the same noise for the global batch."""


def seeds(*key: int, count: int) -> list[int]:
    """``count`` independent seeds below 2^63 for a key of non-negative integers (seed, purpose, step, ...)."""
    # The length is part of the key: (1, 2) and (1, 2, 0) are the same seed sequence.
    state = np.random.SeedSequence((len(key), *key)).generate_state(count, np.uint64) >> np.uint64(1)
    return [int(seed) for seed in state]


def generators(*key: int, count: int) -> list[torch.Generator]:
    """``count`` independent CPU generators for a key."""
    return [torch.Generator().manual_seed(seed) for seed in seeds(*key, count=count)]


def generator(*key: int) -> torch.Generator:
    """The generator for a key."""
    return generators(*key, count=1)[0]


class SampleNoise:
    """Standard normal noise in which sample i depends on (seed, i) alone, not on its batch.

    Called with x (B, ...), one row for each of the indices, it draws contiguous noise like x on its device.
    """

    def __init__(self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu") -> None:
        self._seed, self._drawn = seed, 0
        self._on_device = torch.device(device).type == "cuda"
        if self._on_device:
            self._rows = torch.tensor(indices, pin_memory=True).to(device, non_blocking=True)
        else:
            self._generators = [generator(seed, index) for index in indices]

    def __call__(self, like: Tensor) -> Tensor:
        if self._on_device:
            (key,) = seeds(self._seed, self._drawn, count=1)
            self._drawn += 1
            return philox.normal(key, self._rows, tuple(like.shape[1:])).to(like.dtype)
        rows = [torch.randn(like.shape[1:], generator=source) for source in self._generators]
        return torch.stack(rows).to(device=like.device, dtype=like.dtype, non_blocking=True)


def batch_noise(like: Tensor, key: tuple[int, ...], rank: int = 0, world_size: int = 1) -> Tensor:
    """This process's part of the standard normal noise of a global training batch.

    Row j of ``like`` (B, ...) is row j * world_size + rank of the global batch. On a GPU a row depends on its place in
    the global batch alone. On the host, row p is drawn from stream p mod STREAMS, so the global batch's noise is the
    same for every world_size that divides STREAMS.
    """
    if like.is_cuda:
        rows = torch.arange(rank, len(like) * world_size, world_size, device=like.device)
        return philox.normal(seeds(*key, count=1)[0], rows, tuple(like.shape[1:])).to(like.dtype)
    streams = math.lcm(STREAMS, world_size)
    result = torch.empty(like.shape, dtype=torch.float32)
    sources = generators(*key, count=streams)
    stride = streams // world_size
    for start in range(min(stride, len(result))):
        rows = result[start::stride]
        rows.copy_(torch.randn(rows.shape, generator=sources[start * world_size + rank]))
    return result.to(device=like.device, dtype=like.dtype, non_blocking=True)
