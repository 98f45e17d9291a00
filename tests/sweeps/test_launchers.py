"""Launchers: jobs run in fresh processes with the user's plugins, and a missing package is reported in one message."""

from __future__ import annotations

import csv
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from diffusion_fw.config import sweep_overrides
from diffusion_fw.config.application import check_command_line
from diffusion_fw.config.compose import choices, store_components
from diffusion_fw.registry import ConfigError

ROOT = Path(__file__).parents[2]
TINY = [
    "data=moons",
    "network=mlp",
    "features=identity",
    "trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "metric.num_samples=8",
    "sampler.steps=2",
    "callbacks=[evaluation]",
    "logger=none",
]
PLUGIN = """
from dataclasses import dataclass
import os
import torch
from diffusion_fw import register
from diffusion_fw.process.schedule import DiscreteSchedule

print("loaded in", os.getpid())

@register("schedule", "from_a_plugin")
@dataclass(frozen=True)
class FromAPlugin(DiscreteSchedule):
    high: float = 8.0

    def log_snrs(self):
        return torch.linspace(self.high, -8.0, self.num_steps, dtype=torch.float64)
"""
WITNESS = """
import os
from pathlib import Path
import lightning
from diffusion_fw import register

@register("callbacks", "witness")
class Witness(lightning.Callback):
    def on_train_start(self, trainer, module):
        said = f"{os.getpid()} {trainer.global_rank} of {trainer.world_size}"
        (Path(trainer.default_root_dir) / f"rank{trainer.global_rank}").write_text(said)
"""


def train(folder, *given, plugins=""):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DIFFUSION_FW_PLUGINS": str(plugins), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), *given, *TINY, f"hydra.sweep.dir={folder / 'sweep'}"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("launcher", "package"),
    [("joblib", "hydra_joblib_launcher"), ("submitit_local", "hydra_submitit_launcher")],
)
def test_a_plugin_is_a_choice_in_every_worker(tmp_path, launcher, package):
    if (
        importlib.util.find_spec("hydra_plugins") is None
        or importlib.util.find_spec(f"hydra_plugins.{package}") is None
    ):
        pytest.skip(f"{package} is not installed")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.py").write_text(PLUGIN)
    given = ["-m", f"launcher={launcher}", "schedule=from_a_plugin", "schedule.high=7,9"]
    done = train(tmp_path, *given, plugins=tmp_path / "mine")
    assert done.returncode == 0, done.stdout + done.stderr
    configs = [yaml.safe_load((tmp_path / "sweep" / job / "config.yaml").read_text()) for job in "01"]
    assert [config["schedule"]["name"] for config in configs] == ["from_a_plugin"] * 2
    assert sorted(config["schedule"]["high"] for config in configs) == [7.0, 9.0]
    said = done.stdout + "".join(path.read_text() for path in (tmp_path / "sweep").rglob("*.out"))
    processes = {line.split()[-1] for line in said.splitlines() if line.startswith("loaded in")}
    assert len(processes) > 1
    assert not list(tmp_path.rglob("%j"))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_jobs_of_two_processes_train_with_two_report_a_value_and_leave_none_running(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "witness.py").write_text(WITNESS)
    values = []
    given = ["seed=0,1", "trainer.devices=2", "trainer.strategy=ddp_fork", "+callbacks.witness.name=witness"]
    for launcher in ("basic", "joblib"):
        folder = tmp_path / launcher
        folder.mkdir()
        done = train(folder, "-m", f"launcher={launcher}", *given, plugins=tmp_path / "mine")
        assert done.returncode == 0, done.stdout + done.stderr
        for job in "01":
            said = [path.read_text().split(maxsplit=1) for path in sorted((folder / "sweep" / job).glob("rank*"))]
            assert [rank for _, rank in said] == ["0 of 2", "1 of 2"]
            assert not any(alive(int(pid)) for pid, _ in said)
        with (folder / "sweep" / "jobs.csv").open() as file:
            values.append([float(row["result"]) for row in csv.DictReader(file)])
    assert all(math.isfinite(value) for value in values[0])
    assert values[0][0] != values[0][1]
    assert values[1] == pytest.approx(values[0])


def test_a_search_with_workers_leaves_a_folder_for_each_trial(tmp_path):
    pytest.importorskip("optuna")
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    given = [
        "-m",
        "sweep=optuna",
        "launcher=joblib",
        "optimizer.lr=interval(0.001,0.01)",
        "hydra.sweeper.n_trials=2",
    ]
    done = train(tmp_path, *given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all((tmp_path / "sweep" / number / "samples.png").exists() for number in "01")
    rows = (tmp_path / "sweep" / "trials.csv").read_text().splitlines()
    assert len(rows) == 3
    assert all("complete" in row for row in rows[1:])


@pytest.mark.parametrize(("group", "name"), sorted(sweep_overrides.REQUIRED))
def test_a_choice_whose_package_is_missing_names_the_extra(monkeypatch, group, name):
    store_components()
    monkeypatch.setattr(sweep_overrides, "_installed", lambda module: module == "diffusion_fw")
    with pytest.raises(ConfigError, match=rf"{group}={name} needs .* pip install 'diffusion-fw\["):
        check_command_line("train", ["-m", f"{group}={name}", "seed=1,2"])
    (config,) = check_command_line("train", [])
    assert config["data"]["name"] == "digits"


def test_every_extra_that_a_message_names_is_one_of_the_package():
    stated = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in stated for _, extra in sweep_overrides.REQUIRED.values())
    assert {name for group, name in sweep_overrides.REQUIRED if group == "launcher"} == {*choices("launcher")} - {
        "basic"
    }


def test_a_launcher_without_a_sweep_is_refused():
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    with pytest.raises(ConfigError, match="add -m"):
        check_command_line("train", ["launcher=joblib"])
