"""How much memory sampling takes, and how many samples to draw at once."""

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

from diffusion_fw.condition import on
from diffusion_fw.denoiser import Denoiser
from diffusion_fw.samplers.sampler import Sampler
from diffusion_fw.sampling.draw import CondOf

PROBES = (2, 4)
"""Batch sizes at which the memory is measured; it grows linearly with them."""

FREE_FRACTION = 0.5
"""The fraction of the free memory that batch_size=auto uses for sampling."""

MOST_ON_CPU, MOST_ON_GPU = 256, 1 << 16


class Following(TorchDispatchMode):
    """Counts the live bytes of the storages made inside, or passed to ``hold``: ``now`` and at most, ``peak``.

    Works on real tensors and on tensors without memory (FakeTensorMode). A kernel's own workspace is not counted.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def hold(self, tensor: Tensor) -> None:
        """Count a tensor's storage once, until it is freed."""
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
        # A view of a tensor from outside is no new storage.
        self._known.update(item.untyped_storage() for item in _tensors((args, kwargs)))
        result = func(*args, **(kwargs or {}))
        for item in _tensors(result):
            self.hold(item)
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [item for item in tree_leaves(tree) if isinstance(item, Tensor)]


@dataclass(frozen=True)
class Chunk:
    """Bytes for a chunk of samples besides the weights: ``fixed + each * count``."""

    fixed: int
    each: int

    def of(self, count: int) -> int:
        """The bytes for ``count`` samples."""
        return self.fixed + self.each * count


@torch.no_grad()
def measure_chunk(
    sampler: Sampler, denoiser: Denoiser, shape: tuple[int, ...], cond_of: CondOf, device: torch.device
) -> Chunk:
    """The memory of one evaluation of the denoiser and its guidance, with x_t, its noise and the next state."""
    level = sampler.levels(denoiser.schedule)[0]
    peaks = []
    for count in PROBES:
        cond = on(cond_of(range(count)), device)
        with Following() as watch:
            x, *_ = (torch.zeros(count, *shape, device=device) for _ in range(3))
            denoiser(x, level, cond)
        peaks.append(watch.peak)
    each = max(1, (peaks[1] - peaks[0]) // (PROBES[1] - PROBES[0]))
    return Chunk(fixed=max(0, peaks[0] - each * PROBES[0]), each=each)


def chunk_size(batch_size: int | str, measured: Callable[[], Chunk], device: torch.device) -> int:
    """The given batch size, or for "auto" the largest power of two whose chunk fits into half of the free memory.

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
