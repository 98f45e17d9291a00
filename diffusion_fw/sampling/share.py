"""Work that several processes share, as `torchrun` starts them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

Chunk = TypeVar("Chunk")
Value = TypeVar("Value")


def world_size() -> int:
    """The number of processes that share the work."""
    known = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if known else 1


def rank() -> int:
    """Which of them this is."""
    known = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if known else 0


def shared(work: Callable[[Chunk], Value], chunks: Sequence[Chunk]) -> Iterator[Value]:
    """``work(chunk)`` of each chunk, in order. Process r of R does chunks r, r + R, ..., and each process gets all.

    Chunks are divided, not their content, so that the values are those of one process to the bit. They are sent as they
    are: tensors belong on the host.
    """
    processes = world_size()
    if processes == 1:
        yield from map(work, chunks)
        return
    for first in range(0, len(chunks), processes):
        own = [work(chunk) for chunk in chunks[first : first + processes][rank() : rank() + 1]]
        found: list[Any] = [None] * processes
        torch.distributed.all_gather_object(found, own)
        for values in found:
            yield from values


def smallest(value: int) -> int:
    """The smallest value of all processes, so that they divide the work alike."""
    if world_size() == 1:
        return value
    common = torch.tensor(value)
    torch.distributed.all_reduce(common, torch.distributed.ReduceOp.MIN)
    return int(common)
