"""Run every benchmark and print its ratio beside the bound that it must keep; exit code 1 where one doesn't."""

from __future__ import annotations

import sys

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import health_watch, sampling_step, training_step


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
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
