"""launcher=submitit_slurm on a stand-in for Slurm: requeued jobs resume, and a killed job hides no other."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import slurm_stand_in
import torch
from examples import TINY_WORDS

from diffusion_fw.runs.record import read_record

pytest.importorskip("submitit")
pytest.importorskip("hydra_plugins.hydra_submitit_launcher")

ROOT = Path(__file__).parents[2]
PLUGIN = """
import os, signal
from pathlib import Path
import lightning
from diffusion_fw import register

class Fate(lightning.Callback):
    def __init__(self, folder):
        self.folder = Path(folder)

    def once(self, name):
        new = not (self.folder / name).exists()
        (self.folder / name).touch()
        return new

    def on_train_start(self, trainer, module):
        with open(self.folder / f"starts-{trainer.max_steps}", "a") as file:
            print(f"{trainer.global_step}", file=file)

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step == 5 and trainer.max_steps in (8, 20) and self.once(f"warned-{trainer.global_rank}"):
            os.kill(os.getpid(), signal.SIGUSR2)
        if trainer.global_step == 5 and trainer.max_steps == 9 and self.once("killed"):
            os.kill(os.getpid(), signal.SIGKILL)

@register("callbacks", "fate")
def fate(folder: str = ""):
    return Fate(folder)
"""
TINY = [*TINY_WORDS, "callbacks=[evaluation,checkpoints,fate]", "hydra.sweep.dir=sweep"]


def sweep(folder, slurm, *arguments):
    own = {"PYTHONPATH": str(ROOT), "DIFFUSION_FW_PLUGINS": str(folder / "mine"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), "-m", "launcher=submitit_slurm", *arguments, *TINY]
    command.append(f"callbacks.fate.folder={folder / 'fate'}")
    environment = {**os.environ, **own, **slurm}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)


def outcomes(folder):
    with (folder / "sweep" / "jobs.csv").open(newline="") as file:
        return {row["trainer.max_steps"]: row["outcome"] for row in csv.DictReader(file)}


@pytest.fixture
def slurm(tmp_path):
    for name in ("mine", "fate"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "fate.py").write_text(PLUGIN)
    return slurm_stand_in.install(tmp_path / "slurm")


def test_a_warned_job_is_requeued_and_resumed_and_a_killed_one_hides_none(tmp_path, slurm):
    """Jobs: 9 steps, killed at the sixth; 8 steps, warned by SIGUSR2 in the sixth; 7 steps, undisturbed."""
    first = sweep(tmp_path, slurm, "trainer.max_steps=9,8,7")
    assert first.returncode == 1, first.stdout + first.stderr
    assert "1 of 3 jobs did not finish: 0" in first.stderr
    assert outcomes(tmp_path) == {"9": "killed", "8": "finished", "7": "finished"}
    warned = read_record(tmp_path / "sweep" / "1")
    assert [attempt["status"] for attempt in warned["attempts"]] == ["interrupted", "finished"]
    starts = [(tmp_path / "fate" / f"starts-{steps}").read_text().split() for steps in (9, 8, 7)]
    assert starts == [["0"], ["0", "6"], ["0"]], "the step in which the signal came is in the checkpoint"
    script = (tmp_path / "slurm" / "state" / "script-1000").read_text()
    assert set(re.findall(r"#SBATCH --([\w-]+=\S+)", script)) >= {
        "array=0-2%3",
        "signal=USR2@120",
        "time=1440",
        "gpus-per-node=1",
        "mem=32GB",
    }
    again = sweep(tmp_path, slurm, "trainer.max_steps=9,8")
    assert again.returncode == 0, again.stdout + again.stderr
    assert outcomes(tmp_path) == {"9": "finished", "8": "finished"}
    assert (tmp_path / "fate" / "starts-9").read_text().split() == ["0", "4"]
    # An undisturbed job of as many steps ends with the same weights.
    quiet = {"PYTHONPATH": str(ROOT), "DIFFUSION_FW_PLUGINS": str(tmp_path / "mine"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), *TINY[:-1], "trainer.max_steps=8", "hydra.run.dir=quiet"]
    command.append(f"callbacks.fate.folder={tmp_path / 'fate'}")
    subprocess.run(command, cwd=tmp_path, env={**os.environ, **quiet}, check=True, capture_output=True, timeout=100)
    ours, undisturbed = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("sweep/1", "quiet")
    )
    assert all(torch.equal(ours[key], undisturbed[key]) for key in undisturbed)


def test_a_job_of_several_tasks_is_one_run_that_is_requeued_and_resumed(tmp_path, slurm):
    arguments = ["trainer.devices=2", "trainer.strategy=ddp", "hydra.launcher.tasks_per_node=2", "trainer.max_steps=20"]
    done = sweep(tmp_path, slurm, *arguments)
    logs = "".join(path.read_text() for path in sorted((tmp_path / "sweep" / ".submitit").glob("*.err")))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    record = read_record(tmp_path / "sweep" / "0")
    assert [attempt["status"] for attempt in record["attempts"]] == ["interrupted", "finished"]
    assert (tmp_path / "fate" / "starts-20").read_text().split() == ["0", "0", "10", "10"]
    last = torch.load(tmp_path / "sweep" / "0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 20
