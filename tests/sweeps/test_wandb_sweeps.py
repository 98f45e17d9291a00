"""Sweeps and W&B: the runs of `train.py -m`, and the command that the agent of a sweep of W&B runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb_records
import yaml
from examples import TINY_WORDS
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb.sdk.lib.config_util import save_config_file_from_dict

from diffusion_fw.config.groups import conf_dir

ROOT = Path(__file__).parents[2]
SHORT = ("trainer.max_steps=3", "callbacks=[evaluation,checkpoints]")


def environment(folder, **variables):
    """Without a key and without the user's settings; `python` is this one."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    places = {f"WANDB_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "DATA", "CACHE")}
    path = os.pathsep.join([str(Path(sys.executable).parent), clean["PATH"]])
    paths = {"PATH": path, "PYTHONPATH": str(ROOT), "NETRC": str(folder / "netrc")}
    return {**clean, **places, **paths, **variables}


def test_the_runs_of_a_sweep_are_a_group_and_its_picture_is_a_run_of_the_group(tmp_path):
    words = [word for word in TINY_WORDS if not word.startswith("logger")]
    sweep = tmp_path / "multirun" / "seeds"
    done = subprocess.run(
        [sys.executable, "train.py", "-m", *words, "logger=[wandb]", "seed=0,1", f"hydra.sweep.dir={sweep}", *SHORT],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = [wandb_records.of(sweep / str(number)) for number in (0, 1)]
    whole = wandb_records.of(sweep)
    for records in (*jobs, whole):
        assert records.run.run_group == "multirun/seeds"
        assert list(records.run.tags) == ["multirun/seeds"]
    assert [records.run.job_type for records in (*jobs, whole)] == ["train", "train", "sweep"]
    assert [records.config["seed"] for records in jobs] == [0, 1]
    assert len({records.run.run_id for records in (*jobs, whole)}) == 3
    assert len(whole.values("jobs")) == len(whole.values("jobs/table")) == 1


@pytest.fixture
def agent(tmp_path):
    """agent(parameters, **variables) -> what a run of the sweep does that the agent of wandb starts."""
    sweep = yaml.safe_load((conf_dir() / "wandb" / "sweep.yaml").read_text())
    params, temporary = tmp_path / "config-abc.yaml", tmp_path / "runs"

    def start(parameters, **variables):
        chosen = {name: {"value": value} for name, value in parameters.items()}
        save_config_file_from_dict(str(params), chosen)
        values = create_sweep_command_args({"args": chosen})
        values |= {"interpreter": ["python"], "program": [str(ROOT / sweep["program"])], "env": ["/usr/bin/env"]}
        words = []
        for chunk in create_sweep_command(list(sweep["command"])):
            whole = chunk.startswith("${") and chunk.endswith("}")
            words += values[chunk[2:-1]] if whole else [chunk]
        temporary.mkdir(exist_ok=True)
        own = {"WANDB_SWEEP_ID": "sw33p", "WANDB_RUN_ID": "abc", "WANDB_SWEEP_PARAM_PATH": str(params)}
        env = environment(tmp_path, **own, WANDB_DIR=str(temporary), WANDB_PROJECT="theirs", **variables)
        done = subprocess.run(words, cwd=temporary, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return done, temporary / "outputs" / "wandb" / "sw33p" / "abc"

    return start


TINY = {key: value for key, _, value in (word.partition("=") for word in (*TINY_WORDS, *SHORT)) if key != "logger"}


def test_the_agent_of_wandb_drives_train_and_the_config_is_whole(agent):
    done, folder = agent({**TINY, "optimizer.lr": 0.0005, "schedule": "linear", "seed": 2}, WANDB_MODE="offline")
    assert done.returncode == 0, done.stdout + done.stderr
    records = wandb_records.of(folder)
    assert (records.run.run_id, records.run.sweep_id, records.run.project) == ("abc", "sw33p", "theirs")
    assert records.config["schedule"]["name"] == "linear"
    assert records.config["schedule"]["num_steps"] == 1000
    assert records.config["data"]["name"] == "moons"
    assert records.config["callbacks"].keys() == {"evaluation", "checkpoints"}
    assert records.config["optimizer"]["lr"] == records.config["optimizer.lr"] == 0.0005
    assert (records.config["seed"], records.config["batch_size"]) == (2, 8)
    assert records.summary["best_distance"] == records.summary["fid/identity@8/ema"]["min"]
    assert "wandb sync" in done.stdout


def test_an_agent_without_a_key_is_told_so(agent):
    done, folder = agent(TINY)
    assert done.returncode == 1
    assert "ConfigError: logger=wandb: a run of `wandb agent` needs a key" in done.stderr
    assert not folder.exists()


def test_the_objective_and_the_parameters_of_the_file_are_those_of_runs():
    sweep = yaml.safe_load((conf_dir() / "wandb" / "sweep.yaml").read_text())
    assert sweep["metric"] == {"name": "best_distance", "goal": "minimize"}
    lr = sweep["parameters"]["optimizer.lr"]
    assert all(isinstance(lr[end], float) for end in ("min", "max"))
