"""How long the commands take that do next to nothing: --help, the first training step, a run of one step."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.device.card import ROOT
from benchmarks.row import Row

PLUGINS = Path(__file__).parent / "plugins"
HELP, FIRST_STEP, IN_ALL = 0.6, 6.0, 9.0
"""The aims in seconds."""
CALLBACKS = "callbacks=[first_step,health,evaluation,checkpoints,progress]"


def command(*arguments: str) -> float:
    """The seconds that train.py takes with these arguments, on all cores as a user runs it."""
    environment = {**os.environ, "DIFFUSION_FW_PLUGINS": os.fspath(PLUGINS)}
    environment.pop("OMP_NUM_THREADS", None)
    begin = time.perf_counter()
    subprocess.run([sys.executable, "train.py", *arguments], cwd=ROOT, env=environment, check=True, capture_output=True)
    return time.perf_counter() - begin


def one_step(folder: Path) -> tuple[float, float]:
    """(seconds to the end of the first step, seconds in all) of a run of one step with the default evaluation."""
    began = time.time()
    total = command("trainer.max_steps=1", CALLBACKS, f"hydra.run.dir={folder}")
    return float((folder / "first_step").read_text()) - began, total


def measure() -> Iterator[Row]:
    command("--help")
    yield aim("python train.py --help", statistics.median(command("--help") for _ in range(7)), HELP)
    with tempfile.TemporaryDirectory() as folder:
        runs = [one_step(Path(folder) / str(index)) for index in range(3)]
    first, total = (statistics.median(column) for column in zip(*runs, strict=True))
    yield aim("python train.py on all cores, to the end of the first step", first, FIRST_STEP)
    yield aim("python train.py trainer.max_steps=1 on all cores, with its evaluation of 500 samples", total, IN_ALL)


def aim(name: str, seconds: float, at_most: float) -> Row:
    return Row(name, "the aim", seconds, at_most, seconds / at_most, 1.0)
