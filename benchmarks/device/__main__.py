"""Run the stages one after another, each in a process of its own with a time limit; then one table and one picture."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.device.options import Options
from benchmarks.device.record import Record

STAGES = {
    "correctness": 60,
    "programs": 150,
    "warm": 240,
    "likelihood": 205,
    "compiled": 75,
    "sampling": 105,
    "throughput": 120,
    "default": 60,
}
"""The stages in their order, with the part of the time that each may take of what is left."""
TOGETHER = ("correctness", "programs", "warm", "likelihood")
"""Stages that time nothing run side by side: with 16 cores one GPU is enough for all of them."""
GRACE = 5
"""Seconds that a stage has beyond its own limit before it is stopped."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__)
    parser.add_argument("--budget", type=float, default=420, help="seconds for everything (420)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="which to run (all)")
    parser.add_argument("--out", type=Path, default=Path("outputs/device"), help="where the results go")
    parser.add_argument("--data", type=Path, help="a folder with mnist/ in it")
    parser.add_argument("--toy", action="store_true", help="sizes for seconds on a CPU; always so without a GPU")
    # How a stage is started: its name, and when it must have ended, which counts the start of its process.
    parser.add_argument("--one", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    chosen.toy |= not torch.cuda.is_available()
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.one:
        one(chosen)
        return
    everything(chosen)


def one(chosen: argparse.Namespace) -> None:
    """Run a single stage in this process."""
    record = Record(chosen.out / f"{chosen.one}.json", chosen.one, chosen.until - time.time())
    with tempfile.TemporaryDirectory() as folder:
        stage = importlib.import_module(f"benchmarks.device.stages.{chosen.one}")
        stage.run(record, Options(chosen.toy, chosen.data, Path(folder), chosen.out.resolve() / "shared"))
    record.finish()


def everything(chosen: argparse.Namespace) -> None:
    """Run the chosen stages and show what they found."""
    end = time.monotonic() + chosen.budget
    waiting = [stage for stage in STAGES if stage in chosen.stages]
    results = []
    while waiting:
        group = [stage for stage in waiting if stage in TOGETHER] or waiting[:1]
        waiting = [stage for stage in waiting if stage not in group]
        own = max(STAGES[stage] for stage in group)
        limit = (end - time.monotonic()) * own / (own + sum(STAGES[stage] for stage in waiting))
        results += run_group(group, chosen, limit)
    show(results)
    picture(results, chosen.out / "device.png")
    print(f"results: {chosen.out}")
    if any(row["ok"] is False for result in results for row in result["rows"]):
        sys.exit(1)


def run_group(group: Sequence[str], chosen: argparse.Namespace, limit: float) -> list[dict[str, Any]]:
    """Start stages, wait for all of them, and read what they wrote, whatever became of them."""
    if limit < GRACE:
        print(f"{', '.join(group)}: left out, {limit:.0f} s are left", flush=True)
        return []
    print(f"{', '.join(group)}: at most {limit:.0f} s", flush=True)
    with (chosen.out / "log.txt").open("ab") as log:
        started = {stage: _start(stage, chosen, limit, log) for stage in group}
        end = time.monotonic() + limit + GRACE
        results = []
        for stage, process in started.items():
            try:
                code: int | str = process.wait(timeout=max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                code = f"stopped after {limit + GRACE:.0f} s"
            # Also what a stage that ended left running.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            results.append(_result(chosen.out / f"{stage}.json", stage, code))
    return results


def _start(stage: str, chosen: argparse.Namespace, limit: float, log: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.device", "--one", stage, "--until", f"{time.time() + limit:.1f}"]
    command += ["--out", str(chosen.out), *(["--data", str(chosen.data)] if chosen.data else [])]
    command += ["--toy"] if chosen.toy else []
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def _result(path: Path, stage: str, code: int | str) -> dict[str, Any]:
    path.with_suffix(".part").unlink(missing_ok=True)
    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        result = {"stage": stage, "rows": []}
    if code != 0 or not result.get("finished"):
        reason = code if isinstance(code, str) else f"exit code {code}"
        result["rows"].append({"name": "the stage itself", "text": f"{reason}; see log.txt", "ok": False})
        path.write_text(json.dumps(result, indent=1))
    return result


def show(results: Sequence[dict[str, Any]]) -> None:
    """One line for each row; rows of a group that are right are one line together."""
    table = Table("stage", "what", "found", "")
    for result in results:
        for row in _lines(result["rows"]):
            mark = {True: "ok", False: "FAILS", None: ""}[row["ok"]]
            table.add_row(result["stage"], escape(row["name"]), escape(row["text"]), mark)
        table.add_section()
    known = next((item for item in results if "card" in item), None)
    if known:
        table.title = escape(f"{known['card']}, torch {known['torch']}, {known['commit'][:12]}")
    Console(width=160 if not sys.stdout.isatty() else None).print(table)


def _lines(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    lines = [row for row in rows if not (row.get("group") and row["ok"])]
    for group in dict.fromkeys(row["group"] for row in rows if row.get("group")):
        own = [row for row in rows if row.get("group") == group]
        right = [row for row in own if row["ok"]]
        worst = max((row.get("difference", 0.0) for row in right), default=0.0)
        text = f"{len(right)} of {len(own)} right, largest difference of them {worst:.1e}"
        lines.append({"name": group, "text": text, "ok": len(right) == len(own)})
    return lines


def picture(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Training images a second of everything that was timed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for result in results if result["stage"] in ("throughput", "compiled") for row in result["rows"]]
    rows = [row for row in rows if row.get("images_per_second")]
    if not rows:
        return
    figure, axes = plt.subplots(figsize=(9, 0.35 * len(rows) + 1.2), layout="constrained")
    bars = axes.barh([row["name"] for row in rows], [row["images_per_second"] for row in rows])
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("training images/s")
    axes.set_title(next((item["card"] for item in results if "card" in item), ""))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
