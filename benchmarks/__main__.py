"""Run every benchmark and print its ratio and its bound; exit code 1 if a ratio exceeds its bound."""

from __future__ import annotations

import sys

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import health_watch, peak_memory, sampling_step, training_step


def main() -> None:
    torch.set_num_threads(1)
    table = Table("benchmark", "ours", "bare", "ratio", "at most")
    kept = True
    for benchmark in (sampling_step, training_step, health_watch):
        for name, result, bound in benchmark.measure():
            kept &= result["ratio"] <= bound
            milliseconds = (f"{1e3 * result[key]:.3f} ms" for key in ("ours", "bare"))
            table.add_row(name, *milliseconds, f"{result['ratio']:.2f}", f"{bound:g}")
    Console().print(table)
    memory = Table("peak memory", "stated", "measured", "ratio", "within")
    for name, stated, measured, ratio in peak_memory.measure():
        kept &= abs(ratio - 1) <= peak_memory.WITHIN
        memory.add_row(
            escape(name),
            f"{stated / 2**20:.1f} MiB",
            f"{measured / 2**20:.1f} MiB",
            f"{ratio:.2f}",
            f"{peak_memory.WITHIN:.0%}",
        )
    Console().print(memory)
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
