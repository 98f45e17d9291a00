"""The order of the training examples: a function of the seed, which any process can enter at any step."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from diffusion_fw.noise import generator


class ShuffledBatches:
    """Batches of indices from an endless stream of shuffled epochs; a batch may span two epochs.

    Global batch b of size G holds the positions b G .. b G + G - 1 of the stream, and process ``rank`` takes every
    ``world_size``-th of them. So the examples do not depend on the number of processes, and a resumed run continues at
    its own batch. The length is the number of batches of the whole run.
    """

    def __init__(
        self, examples: int, batch_size: int, seed: int, *, start: int, stop: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self.start, self.stop, self.rank, self.world_size = start, stop, rank, world_size

    def __len__(self) -> int:
        return self.stop

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, torch.empty(0, dtype=torch.long)
        for batch in range(self.start, self.stop):
            first, last = batch * self.batch_size, (batch + 1) * self.batch_size
            parts = []
            while first < last:
                if first // self.examples != epoch:
                    epoch = first // self.examples
                    order = torch.randperm(self.examples, generator=generator(self.seed, epoch))
                offset = first - epoch * self.examples
                parts.append(order[offset : offset + last - first])
                first += len(parts[-1])
            yield torch.cat(parts)[self.rank :: self.world_size].tolist()
