"""SIGKILL at any moment: no file is corrupt, no checkpoint is lost, and the resumed run equals the undisturbed one."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from examples import plain_state

from diffusion_fw.training.archive import RECORD_KEY

HERE = Path(__file__).parent
OVERRIDES = (
    "data=moons",
    "network=mlp",
    "network.width=16",
    "batch_size=32",
    "metric.num_samples=500",
    "sampler.steps=20",
    "time_sampler=loss_aware",
    "trainer=cpu",
    "trainer.log_every_n_steps=7",
    "callbacks=[evaluation,checkpoints]",
    "callbacks.evaluation.every=40",
    "callbacks.checkpoints.every=10",
)
"""A run that spends its time evenly on training, checkpoints and evaluations."""


def start(folder, *arguments):
    """Start a run; ``folder`` holds the files in which it notes its phase."""
    environment = {
        **os.environ,
        "PHASE_FILE": str(folder / "phase"),
        "SAVED_FILE": str(folder / "saved"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.fspath(HERE.parents[1]),
    }
    return subprocess.Popen(
        [sys.executable, os.fspath(HERE / "victim.py"), *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def begin_or_resume(folder, steps):
    run = folder / "run"
    if (run / "checkpoints" / "last.ckpt").exists():
        return start(folder, f"resume={run}", f"trainer.max_steps={steps}")
    return start(folder, *OVERRIDES, f"hydra.run.dir={run}", f"trainer.max_steps={steps}")


def note(folder, name="phase"):
    path = folder / name
    return path.read_text() if path.exists() else ""


def check(folder):
    """Every checkpoint of a killed run can be read; the last is at least as late as the last one completed."""
    saved = int(note(folder, "saved") or 0)
    files = {path.name: path for path in (folder / "run" / "checkpoints").glob("*.ckpt")}
    steps = {name: torch.load(path, weights_only=True)["global_step"] for name, path in files.items()}
    assert steps.get("last.ckpt", 0) >= saved
    return steps.get("last.ckpt", 0)


def result(folder):
    """What a run computed: everything but its speed."""
    files = {
        name: torch.load(folder / "run" / "checkpoints" / name, weights_only=True)
        for name in ("last.ckpt", "best.ckpt")
    }
    with (folder / "run" / "metrics.csv").open() as file:
        rows = [{key: value for key, value in row.items() if "per_second" not in key} for row in csv.DictReader(file)]
    return {
        "rows": rows,
        **{
            f"{name}/{key}": plain_state(content[key])
            for name, content in files.items()
            for key in ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "callbacks")
        },
        **{name: plain_state(content[RECORD_KEY]["time_sampler"]) for name, content in files.items()},
    }


def finish(folder, steps):
    process = begin_or_resume(folder, steps)
    _, output = process.communicate(timeout=250)
    assert process.returncode == 0, output[-2000:]


def kill_and_resume(folder, kills, steps, seed, longest):
    """Kill a run so often, each time after a random while in a random phase; the phases in which it was struck."""
    folder.mkdir()
    draw = random.Random(seed)
    struck = Counter()
    while sum(struck.values()) < kills:
        process = begin_or_resume(folder, steps)
        (folder / "phase").write_text("start")
        while process.poll() is None and note(folder) in ("start", ""):
            time.sleep(0.005)
        # Half of the kills wait for a phase that is short, so that all are struck often.
        wanted = draw.choice([None, "checkpoint", "evaluation"])
        until = time.monotonic() + draw.uniform(0, longest)
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        late = time.monotonic() + 2
        while wanted and process.poll() is None and note(folder) != wanted and time.monotonic() < late:
            time.sleep(0.0002)
        time.sleep(draw.uniform(0, 0.004))
        phase = note(folder)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run ended before it was killed: it needs more steps"
        struck[phase or "in between"] += 1
        check(folder)
    return struck


def run_through(tmp_path, kills, steps, longest):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    finish(whole, steps)
    struck = kill_and_resume(cut, kills, steps, seed=0, longest=longest)
    finish(cut, steps)
    one, other = result(whole), result(cut)
    assert one.keys() == other.keys()
    for key in one:
        assert one[key] == other[key], key
    assert not list((cut / "run" / "checkpoints").glob(".*"))
    return struck


def test_a_run_killed_twice_is_the_undisturbed_one(tmp_path):
    run_through(tmp_path, kills=2, steps=300, longest=0.2)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_a_run_killed_a_hundred_times_is_the_undisturbed_one(tmp_path):
    """Prints what docs/reliability.md records."""
    began, steps = time.monotonic(), 10_000
    struck = run_through(tmp_path, kills=100, steps=steps, longest=0.5)
    print(json.dumps({"kills": dict(struck), "steps": steps, "minutes": (time.monotonic() - began) / 60}))
