"""The package's command lines as a stage runs them: each in a process of its own, with a time limit."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.device.card import ROOT

PLUGINS = Path(__file__).parent / "plugins"
ERROR_LINES = 12


class FailedError(Exception):
    """A command that failed; its message is the last line of what it wrote."""


@dataclass(frozen=True)
class Done:
    """What a command left: its output, how long it took, and its folder."""

    output: str
    seconds: float
    folder: Path

    @property
    def watched(self) -> dict[str, Any]:
        """What callbacks=device_watch measured."""
        content: dict[str, Any] = json.loads((self.folder / "device_watch.json").read_text())
        return content

    def column(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of a column of metrics.csv, found by the beginning of its name."""
        with (self.folder / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        key = next((key for key in rows[0] if key.startswith(name)), None)
        return [(int(row["step"]), float(row[key])) for row in rows if key and row[key]]

    def number(self, pattern: str) -> float | None:
        """The number that a pattern's group finds in the output."""
        found = re.search(pattern, self.output)
        return float(found.group(1).replace(",", "")) if found else None


def run(program: str, folder: Path, *overrides: str, timeout: float, **environment: str) -> Done:
    """Run ``python <program> <overrides>`` in the repository's root; FailedError where it fails or takes too long."""
    own = [] if any(item.startswith("resume=") for item in overrides) else [f"hydra.run.dir={folder}"]
    known = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "DIFFUSION_FW_PLUGINS": str(PLUGINS),
        "COLUMNS": "200",
        "HYDRA_FULL_ERROR": "1",
        **environment,
    }
    begin = time.monotonic()
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.parent / f"{folder.name}.{time.monotonic_ns()}.log"
    # In the stage's process group, so that nothing outlives the stage.
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, program, *overrides, *own], cwd=ROOT, env=known, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            process.wait(timeout=max(1.0, timeout))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            message = f"{program} took more than {timeout:.0f} s; {last_line(log.read_text(errors='replace'))}"
            raise FailedError(message) from None
    output = log.read_text(errors="replace")
    if process.returncode:
        print(f"--- {program} {' '.join(overrides)}: exit code {process.returncode}\n{output[-6000:]}", flush=True)
        raise FailedError(f"{program}: exit code {process.returncode}; {last_line(output)}")
    return Done(output, time.monotonic() - begin, folder)


def last_line(output: str) -> str:
    """The last line that says something; what a progress bar overwrote is left out."""
    lines = [line.rpartition("\r")[2].strip() for line in output.splitlines()]
    return next((line for line in reversed(lines) if line), "no output")


def train(folder: Path, *overrides: str, timeout: float, **environment: str) -> Done:
    return run("train.py", folder, *overrides, timeout=timeout, **environment)
