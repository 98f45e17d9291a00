"""Compare two ways of computing the same: timed in turns, by the median of the ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def seconds(function: Callable[[], object], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - begin) / repeats


def ratio(
    ours: Callable[[], object], bare: Callable[[], object], *, repeats: int, rounds: int = 15
) -> dict[str, float]:
    """The median seconds of each and the median of their ratios, over rounds that alternate between the two."""
    with torch.random.fork_rng():
        ours(), bare()
        pairs = [(seconds(ours, repeats), seconds(bare, repeats)) for _ in range(rounds)]
    return compared(pairs)


def compared(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """The medians of (ours, bare) seconds, and the median of their ratios."""
    return {
        "ours": statistics.median(first for first, _ in pairs),
        "bare": statistics.median(second for _, second in pairs),
        "ratio": statistics.median(first / second for first, second in pairs),
    }
