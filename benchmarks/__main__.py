"""Run benchmarks and print each ratio and its bounds; exit code 1 if a ratio is out of bounds.

Each benchmark runs in a process of its own and writes benchmarks/results/cpu/NAME.json. At the end the section of
docs/performance.md is written again from these files.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import io
import json
import os
import subprocess
import sys

from benchmarks import document
from benchmarks.row import Missing, Row

SHORT = (
    "sampling_step",
    "training_step",
    "health_watch",
    "unet_step",
    "features",
    "startup",
    "growth",
    "peak_memory",
)
LONG = ("evaluations",)
"""Benchmarks of many minutes, which run only by name."""

OUT_OF_BOUNDS = 3
"""The exit code of a benchmark that ran and missed a bound."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"Without names: {', '.join(SHORT)}. Only by name, many minutes: {', '.join(LONG)}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*SHORT, *LONG, []], help="the benchmarks to run")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(name: str) -> bool:
    """Run one benchmark in this process; whether all of its ratios are within bounds."""
    import torch

    from benchmarks.machine import facts

    torch.set_num_threads(1)
    rows = []
    terminal = sys.stdout
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        for row in importlib.import_module(f"benchmarks.{name}").measure():
            rows.append(row)
            print(document.line(row), file=terminal, flush=True)
    content = {
        **facts(),
        "rows": [{**dataclasses.asdict(row), "kept": row.kept} for row in rows if isinstance(row, Row)],
        "missing": [dataclasses.asdict(row) for row in rows if isinstance(row, Missing)],
    }
    document.RESULTS.mkdir(parents=True, exist_ok=True)
    (document.RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    return all(row.kept for row in rows if isinstance(row, Row))


def main() -> None:
    given = parse()
    if given.here:
        sys.exit(0 if measure(*given.names) else OUT_OF_BOUNDS)
    codes = {}
    for name in given.names or SHORT:
        print(f"\n{name}", flush=True)
        # One OpenMP thread: timings of two threads on two cores depend on what else runs.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "benchmarks", "--here", name]
        # Warnings, which are shown only if it fails.
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
        codes[name] = done.returncode
        if done.returncode not in (0, OUT_OF_BOUNDS):
            print(done.stderr[-4000:], file=sys.stderr)
    document.write()
    failed = [name for name, code in codes.items() if code]
    sys.exit(f"out of bounds or failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
