"""Compare two ways of computing the same: timed in turns, by the median of the ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.row import Row


def seconds(function: Callable[[], object], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - begin) / repeats


def in_turns(functions: Sequence[Callable[[], object]], *, repeats: int, rounds: int = 15) -> list[list[float]]:
    """The seconds of each function in each round; a round calls all of them."""
    with torch.random.fork_rng():
        for function in functions:
            function()
        return [[seconds(function, repeats) for function in functions] for _ in range(rounds)]


def compared(name: str, against: str, pairs: Sequence[tuple[float, float]], at_most: float) -> Row:
    """The row of (ours, other) seconds: their medians, and the median of their ratios."""
    ours, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = [first / second for first, second in pairs]
    return Row(name, against, ours, other, statistics.median(ratios), at_most, low=min(ratios), high=max(ratios))
