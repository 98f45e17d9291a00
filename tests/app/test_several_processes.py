"""Processes that `torchrun` starts share the work of a program, and leave the files of one."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from diffusion_fw.app.processes import in_one_folder
from diffusion_fw.app.sample import sample
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.config.application import check_command_line

ROOT = Path(__file__).parents[2]
TINY = ["network.channels=4", "network.channel_mult=[1]", "sampler.steps=2"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _sample(rank, runs):
    torch.set_num_threads(1)
    for config, folder, port in runs:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        sample(config, folder)


def test_samples_of_two_processes_are_those_of_one(untrained, tmp_path):
    """In three modes: samples are drawn, examples encoded and decoded, trajectories followed."""
    checkpoint = untrained(*TINY, "network.class_conditional=true")
    configs = {
        mode: check_command_line(
            "sample",
            [f"checkpoint={checkpoint}", f"mode={mode}", "num_samples=13", "batch_size=4", "npz=true", *more],
        )[0]
        for mode, more in {"samples": [], "reconstruct": ["mode.steps=[2]"], "trajectory": []}.items()
    }
    folders = {number: {mode: tmp_path / number / mode for mode in configs} for number in ("one", "two")}
    for folder in (folder for each in folders.values() for folder in each.values()):
        folder.mkdir(parents=True)
    for mode, config in configs.items():
        sample(config, folders["one"][mode])
    mp.spawn(_sample, ([(configs[mode], folder, free_port()) for mode, folder in folders["two"].items()],), nprocs=2)
    for mode, folder in folders["one"].items():
        one, two = (np.load(place / f"{mode}.npz") for place in (folder, folders["two"][mode]))
        assert all(np.array_equal(one[key], two[key]) for key in one)
    files = [
        {path.relative_to(tmp_path / number): path.read_bytes() for path in (tmp_path / number).rglob("*.png")}
        for number in folders
    ]
    assert len(files[0]) == 13 + 3
    assert files[0] == files[1]


def test_all_processes_run_in_one_folder(monkeypatch):
    store = torch.distributed.TCPStore("localhost", 0, is_master=True)  # type: ignore[attr-defined]
    variables = {
        "WORLD_SIZE": "2",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
    }
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    found = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        found.append(in_one_folder(["seed=1"]))
        assert in_one_folder(["hydra.run.dir=mine"]) == ["hydra.run.dir=mine"]
    assert found[0] == found[1]
    assert found[0][1].startswith("hydra.run.dir=outputs/2")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert in_one_folder(["seed=1"]) == ["seed=1"]


@pytest.mark.timeout(200)
def test_torchrun_trains_the_run_that_lightning_starts(tmp_path):
    arguments = [
        *TINY,
        *("features=pixels", "metric.num_samples=8", "batch_size=8", "trainer=ddp_cpu", "trainer.max_steps=2"),
        "callbacks=[evaluation,checkpoints,model_checkpoint,early_stopping,learning_rate_monitor]",
        *("trainer.log_every_n_steps=1", f"metric.cache_dir={tmp_path}"),
    ]
    started = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", ROOT / "train.py", *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert started.returncode == 0, started.stderr
    (folder,) = (tmp_path / "outputs").glob("*/*")
    assert [path.name for path in (folder / "checkpoints").glob("step_*")] == ["step_0000002.ckpt"]

    with (folder / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file) if row["lr-AdamW"]] == ["0", "1"]

    (config,) = check_command_line("train", [*arguments, "trainer.strategy=ddp_fork"])
    experiment = build_experiment(config, tmp_path / "forked")
    experiment.trainer.fit(experiment.module)
    one, two = (
        torch.load(place / "checkpoints" / "last.ckpt", weights_only=True) for place in (folder, tmp_path / "forked")
    )
    assert all(torch.equal(value, two["state_dict"][key]) for key, value in one["state_dict"].items())
    assert one["callbacks"]["History"]["distances"] == two["callbacks"]["History"]["distances"]
