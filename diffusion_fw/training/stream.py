"""The order of the training examples: a function of the seed, which any process can enter at any step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from diffusion_fw.data.dataset import Batch, Examples
from diffusion_fw.noise import generator


class ShuffledBatches:
    """Batches of indices from an endless stream of shuffled epochs; a batch may span two epochs.

    Global batch b of size G holds the positions b G .. b G + G - 1 of the stream, and process ``rank`` takes every
    ``world_size``-th of them. So the examples do not depend on the number of processes, and a resumed run continues at
    its own batch. The length is the number of batches of the whole run. With ``repeat`` the stream is its first
    ``repeat`` batches, again and again.
    """

    def __init__(
        self,
        examples: int,
        batch_size: int,
        seed: int,
        *,
        start: int,
        stop: int,
        rank: int = 0,
        world_size: int = 1,
        repeat: int = 0,
    ) -> None:
        self.examples, self.batch_size, self.seed, self.repeat = examples, batch_size, seed, repeat
        self.start, self.stop, self.rank, self.world_size = start, stop, rank, world_size

    def __len__(self) -> int:
        return self.stop

    def __iter__(self) -> Iterator[list[int]]:
        for indices in self.on(torch.device("cpu")):
            yield indices.tolist()

    def on(self, device: torch.device) -> Iterator[Tensor]:
        """The batches as tensors on a device, to which the order of an epoch is copied as a whole."""
        epoch, order = -1, torch.empty(0, dtype=torch.long)
        pinned = device.type == "cuda"
        for position in range(self.start, self.stop):
            batch = position % self.repeat if self.repeat else position
            first, last = batch * self.batch_size, (batch + 1) * self.batch_size
            parts = []
            while first < last:
                if first // self.examples != epoch:
                    epoch = first // self.examples
                    order = torch.randperm(self.examples, generator=generator(self.seed, epoch), pin_memory=pinned)
                    order = order.to(device, non_blocking=True)
                offset = first - epoch * self.examples
                parts.append(order[offset : offset + last - first])
                first += len(parts[-1])
            yield torch.cat(parts)[self.rank :: self.world_size]


class ResidentLoader:
    """Batches of examples that are held on the device: one indexing there, no copy."""

    def __init__(self, examples: Examples, batches: ShuffledBatches, device: torch.device) -> None:
        self.examples, self.batches, self.device = examples, batches, device

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for indices in self.batches.on(self.device):
            yield self.examples.__getitems__(indices)  # type: ignore[arg-type]
