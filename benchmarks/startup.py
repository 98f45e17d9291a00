"""How long the commands take that do next to nothing: --help, the first training step, a run of one step."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.device.card import ROOT
from benchmarks.row import Row

PLUGINS = Path(__file__).parent / "plugins"
HELP, FIRST_STEP, IN_ALL = 0.6, 6.0, 9.0
"""The aims in seconds."""
PLAIN = """
import hydra
from dataclasses import dataclass
from hydra.core.config_store import ConfigStore

@dataclass
class Settings:
    width: int = 1
    rate: float = 0.1

ConfigStore.instance().store("settings", Settings)

@hydra.main(version_base="1.3", config_path=None, config_name="settings")
def main(config):
    pass

main()
"""
"""The smallest app of Hydra."""
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


def python(*arguments: str) -> float:
    """The seconds that Python takes with these arguments."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - begin


def in_turns(ours: Sequence[str], theirs: Sequence[str], rounds: int = 5) -> tuple[float, float]:
    """The median seconds of two commands that are run one after the other, after one round that is not counted."""
    runs = [(python(*ours), python(*theirs)) for _ in range(rounds + 1)][1:]
    first, second = (statistics.median(column) for column in zip(*runs, strict=True))
    return first, second


def measure() -> Iterator[Row]:
    command("--help")
    yield aim("python train.py --help", statistics.median(command("--help") for _ in range(7)), HELP)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "app.py"
        plain.write_text(PLAIN)
        ours, theirs = in_turns(["train.py", "--help"], [os.fspath(plain), "--help"])
        yield Row("python train.py --help", "a Hydra app of two keys", ours, theirs, ours / theirs, 1.5)
        ours, theirs = in_turns(["train.py", "--cfg", "job"], [os.fspath(plain), "--cfg", "job"])
        yield Row("python train.py --cfg job", "a Hydra app of two keys", ours, theirs, ours / theirs, 2.0)
    ours, theirs = in_turns(["-c", "import diffusion_fw as dfw; dfw.load"], ["-c", "import torch"])
    yield Row("import of dfw.load", "import torch", ours, theirs, ours / theirs, 1.25)
    with tempfile.TemporaryDirectory() as folder:
        runs = [one_step(Path(folder) / str(index)) for index in range(3)]
    first, total = (statistics.median(column) for column in zip(*runs, strict=True))
    yield aim("python train.py on all cores, to the end of the first step", first, FIRST_STEP)
    yield aim("python train.py trainer.max_steps=1 on all cores, with its evaluation of 500 samples", total, IN_ALL)


def aim(name: str, seconds: float, at_most: float) -> Row:
    return Row(name, "the aim", seconds, at_most, seconds / at_most, 1.0)
