"""The programs as functions of Python: the same results as on a command line, and configs that are checked again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from examples import TINY_WORDS, plain_state

import diffusion_fw as dfw
from diffusion_fw.app import library
from diffusion_fw.checkpoints.read import read
from diffusion_fw.registry import ConfigError
from diffusion_fw.runs.record import read_record

ROOT = Path(__file__).parents[2]
WORDS = [*(word for word in TINY_WORDS if not word.startswith("logger")), "logger=[csv]", "trainer.max_steps=3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    cache = f"metric.cache_dir={folder / 'cache'}"
    result = dfw.train(dfw.compose([*WORDS, cache]), folder / "run")
    return folder / "run", result, cache


def program(name, *arguments):
    subprocess.run([sys.executable, f"{name}.py", *arguments], cwd=ROOT, check=True, capture_output=True)


def test_training_samples_and_numbers_are_those_of_the_programs(trained, tmp_path):
    run, result, cache = trained
    program("train", *WORDS, cache, f"hydra.run.dir={tmp_path / 'run'}")
    assert read_record(tmp_path / "run")["result"] == result.value
    ours, theirs = (read(folder / "checkpoints" / "last.ckpt") for folder in (run, tmp_path / "run"))
    assert plain_state(ours["state_dict"]) == plain_state(theirs["state_dict"])
    assert plain_state(ours["optimizer_states"]) == plain_state(theirs["optimizer_states"])
    words = [f"checkpoint={run / 'checkpoints' / 'last.ckpt'}", "num_samples=5", "seed=3", "device=cpu"]
    found = dfw.sample(dfw.compose(words, "sample"), tmp_path / "ours")
    program("sample", *words, f"hydra.run.dir={tmp_path / 'theirs'}")
    with np.load(tmp_path / "theirs" / "samples.npz") as file:
        assert np.array_equal(file["samples"], found.arrays["samples"].numpy())


def test_a_run_leaves_what_a_run_of_the_program_leaves(trained):
    run, result, _ = trained
    record = read_record(run)
    assert (record["status"], record["result"], record["metric"]) == ("finished", result.value, result.name)
    assert record["overrides"][: len(WORDS)] == WORDS
    for name in ("config.yaml", "metrics.csv", "checkpoints/best.ckpt", "loss.png"):
        assert (run / name).exists(), name


def test_every_number_is_returned_and_written_with_its_command(trained, tmp_path):
    run, _, cache = trained
    sizes = ["metric.fid.num_samples=8", "metric.energy_distance.num_samples=8", cache.replace(".", ".fid.")]
    metrics = ["metric=[fid,energy_distance]", *sizes]
    words = [f"checkpoint={run / 'checkpoints' / 'last.ckpt'}", "device=cpu", f"results={tmp_path / 'kept'}", *metrics]
    found = dfw.evaluate(dfw.compose(words, "evaluate"), tmp_path / "out")
    lines = json.loads((tmp_path / "out" / "evaluation.json").read_text())["results"]
    assert [item.value for item in found] == [line["value"] for line in lines]
    assert len(found) > 1
    assert lines[0]["command"].startswith("python evaluate.py checkpoint=")
    assert read_record(tmp_path / "out")["result"] == found[0].value


def test_a_changed_config_is_checked_and_its_change_recorded(trained, tmp_path):
    _, _, cache = trained
    config = dfw.compose([*WORDS, cache])
    config["trainer"]["max_steps"] = 1
    config["schedule"] = {"name": "linear"}
    dfw.train(config, tmp_path / "run")
    record = read_record(tmp_path / "run")
    assert record["overrides"][-1] == "trainer.max_steps=1"
    assert "schedule=linear" in record["overrides"]
    assert "trainer.max_steps=3" not in record["overrides"]
    assert read(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 1
    again = dfw.compose(record["overrides"])
    assert again["schedule"]["name"] == "linear"


def test_a_run_is_resumed_in_its_folder(trained, tmp_path):
    run, _, cache = trained
    dfw.train(dfw.compose([*WORDS, cache, "trainer.max_steps=2"]), tmp_path / "run")
    config = dfw.compose([f"resume={tmp_path / 'run'}", "trainer.max_steps=3"])
    with pytest.raises(ConfigError, match="a run is resumed in its own folder"):
        dfw.train(config, tmp_path / "other")
    dfw.train(config, tmp_path / "run")
    ours, theirs = (read(folder / "checkpoints" / "last.ckpt") for folder in (run, tmp_path / "run"))
    assert plain_state(ours["state_dict"]) == plain_state(theirs["state_dict"])


train: Any = dfw.train


def changed(key, value):
    config = dfw.compose(["data=moons", "network=mlp"])
    *path, last = key.split(".")
    place = config
    for part in path:
        place = place[part]
    place[last] = value
    return config


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: dfw.compose(["sampler=ddmi"]), "sampler=ddmi: no such sampler - did you mean 'ddim'"),
        (lambda: dfw.compose("seed=1"), r"give the overrides as a list, \['seed=1'\]"),
        (lambda: dfw.compose(["seed=1,2"]), "seed=1,2"),
        (lambda: dfw.compose(["--help"]), "--help: only on a command line"),
        (lambda: dfw.compose(["hydra.run.dir=x"]), "hydra.run.dir=x: only on a command line"),
        (lambda: dfw.compose([], "sampel"), "program=sampel: must be one of train, sample, evaluate"),
        (lambda: dfw.compose([], "sample"), "checkpoint"),
        (
            lambda: train(dict(dfw.compose()), "nowhere"),
            r'takes what dfw\.compose\(\[...\], "train"\) gives, not a dict',
        ),
        (lambda: dfw.sample(dfw.compose(), "nowhere"), r"dfw\.sample takes .*, not the config of train\.py"),
        (lambda: dfw.train(changed("sampler.stpes", 3), "nowhere"), r"sampler\.stpes: .* did you mean 'steps'"),
        (lambda: dfw.train(changed("trianer", {}), "nowhere"), "trianer: no such key - did you mean 'trainer'"),
        (lambda: dfw.train(changed("batch_size", -1), "nowhere"), "batch_size=-1: must be"),
    ],
)
def test_mistakes_are_said_and_leave_no_folder(wrong, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        wrong()
    assert not list(tmp_path.iterdir())


def test_parts_that_do_not_fit_leave_no_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"needs sequences \(C, L\) or images"):
        dfw.train(dfw.compose(["data=moons", "network=unet"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_composing_works_inside_a_hydra_application_of_ones_own(tmp_path):
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with initialize_config_dir(version_base="1.3", config_dir=str(tmp_path)):
        assert dfw.compose(["seed=5"])["seed"] == 5
        assert GlobalHydra.instance().is_initialized()
        assert compose("mine").a == 1


CELL = """
@dfw.register("schedule", "of_a_cell")
@dataclass(frozen=True)
class OfACell(dfw.DiscreteSchedule):
    '''A schedule of a notebook.'''
    high: float = {high}
    def log_snrs(self):
        return torch.linspace(self.high, -9, self.num_steps, dtype=torch.float64)
"""


def test_a_cell_of_a_notebook_is_run_again_with_a_change(scratch_registry, monkeypatch):
    from dataclasses import dataclass

    names = {"dfw": dfw, "dataclass": dataclass, "torch": torch, "__name__": "__main__"}
    for number, high in enumerate((9.0, 8.0)):
        exec(compile(CELL.format(high=high), f"<cell {number}>", "exec"), names)
        assert dfw.compose(["schedule=of_a_cell"])["schedule"]["high"] == high
    names["__name__"] = "another_file"
    monkeypatch.setitem(sys.modules, "another_file", ModuleType("another_file"))
    with pytest.raises(dfw.registry.RegistrationError, match="registered twice"):
        exec(compile(CELL.format(high=7.0), "<cell 2>", "exec"), names)


def test_dir_lists_every_public_name():
    assert {*dfw.__all__, "__version__", "__doc__"} <= set(dir(dfw))


def recorded_change(words, program, key, value):
    """The overrides of a config with a changed value, and the config that they compose."""
    config = dfw.compose(words, program)
    place = config
    *above, last = key.split(".")
    for part in above:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    values, overrides = library._checked(program, config)
    return values, overrides, dfw.compose(overrides, program)


@pytest.mark.parametrize(
    ("program", "words", "key", "value", "expected"),
    [
        ("train", ["sampler=ddpm", "sampler.steps=7"], "sampler", {"name": "ddim"}, "sampler.steps=50"),
        ("train", ["experiment=edm"], "sampler", {"name": "ddim"}, "sampler.steps=50"),
        ("train", ["seed=1"], "callbacks.health", None, "callbacks=[evaluation,checkpoints,progress]"),
        ("train", [], "logger", {}, "logger=none"),
        ("train", [], "init_from", "a b,c", 'init_from="a b,c"'),
        ("train", ["sampler.steps=9"], "sampler.steps", 8, "sampler.steps=8"),
        ("train", [], "network.channel_mult", [1, 2], "network.channel_mult=[1,2]"),
        ("evaluate", ["checkpoint=x", "metric=[fid,kid]"], "metric.kid", None, "metric=[fid]"),
        ("evaluate", ["checkpoint=x"], "results", "", 'results=""'),
        ("sample", ["checkpoint=x"], "ema.std", 0.1, "ema.std=0.1"),
        ("sample", ["checkpoint=x", "guidance=[own]"], "guidance.clip", {"name": "clip"}, "guidance=[own,clip]"),
    ],
)
def test_the_overrides_of_a_changed_config_compose_it(program, words, key, value, expected, caplog):
    values, overrides, again = recorded_change(words, program, key, value)
    assert expected in overrides
    assert library._complete(again) == library._complete(values)
    assert not caplog.text


def test_a_change_that_no_overrides_say_is_told(caplog):
    # What an experiment sets for one sampler, another has not.
    _, overrides = library._checked("train", dfw.compose(["seed=1"]))
    assert overrides == ["seed=1"]
    before, now = library._complete(dfw.compose([])), library._complete(dfw.compose([]))
    now["sampler"] = {**now["sampler"], "nothing": 1}
    library._overrides("train", [], before, now)
    assert "no overrides say all that was changed in the config of sampler" in caplog.text
