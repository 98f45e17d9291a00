"""The bytes that tensors take, followed from their making to their end."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffusion_fw.denoiser import Denoiser
from diffusion_fw.samplers.sampler import Sampler
from diffusion_fw.sampling.draw import cycle_labels

PROBES = (2, 4)
"""Batch sizes at which sampling is measured; what it needs grows linearly."""

FREE_FRACTION = 0.5
"""The part of the free memory that batch_size=auto takes for sampling."""

MOST_ON_CPU, MOST_ON_GPU = 256, 1 << 16


class Following(TorchDispatchMode):
    """``now`` and ``peak``: the bytes of the storages made inside, or given to ``hold``, that are still alive.

    Works on tensors without memory (FakeTensorMode) as on real ones. What a kernel takes for itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def hold(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once, until nothing refers to it."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What was made outside is not made here by taking a view of it.
        self._known.update(item.untyped_storage() for item in _tensors((args, kwargs)))
        result = func(*args, **(kwargs or {}))
        for item in _tensors(result):
            self.hold(item)
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [item for item in tree_leaves(tree) if isinstance(item, Tensor)]


@dataclass(frozen=True)
class Chunk:
    """Bytes that drawing a chunk of samples takes beside the weights: ``fixed + each * count``."""

    fixed: int
    each: int

    def of(self, count: int) -> int:
        """Of a chunk of ``count`` samples."""
        return self.fixed + self.each * count


@torch.no_grad()
def measure_chunk(
    sampler: Sampler, denoiser: Denoiser, shape: tuple[int, ...], num_classes: int, device: torch.device
) -> Chunk:
    """What one evaluation of the denoiser takes, its guidance included, beside x_t, its noise and the next state."""
    level = sampler.levels(denoiser.schedule)[0]
    peaks = []
    for count in PROBES:
        cond = cycle_labels(range(count), num_classes, device)
        with Following() as watch:
            x, *_ = (torch.zeros(count, *shape, device=device) for _ in range(3))
            denoiser(x, level, cond)
        peaks.append(watch.peak)
    each = max(1, (peaks[1] - peaks[0]) // (PROBES[1] - PROBES[0]))
    return Chunk(fixed=max(0, peaks[0] - each * PROBES[0]), each=each)


def chunk_size(batch_size: int | str, measured: Callable[[], Chunk], device: torch.device) -> int:
    """The batch size given, or for "auto" the largest power of two of which a chunk takes half of the free memory.

    At most MOST_ON_CPU or MOST_ON_GPU.
    """
    if not isinstance(batch_size, str):
        return batch_size
    if device.type == "cuda":
        free, most = torch.cuda.mem_get_info(device)[0], MOST_ON_GPU
    else:
        free, most = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), MOST_ON_CPU
    chunk = measured()
    fits = max(1, (int(FREE_FRACTION * free) - chunk.fixed) // chunk.each)
    return min(most, 1 << (fits.bit_length() - 1))
