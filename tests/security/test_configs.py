"""A config holds values of registered components: nothing in it is instantiated, and no stray config is read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.singleton import Singleton

from diffusion_fw.composition.experiment import plain
from diffusion_fw.config import application, sources
from diffusion_fw.config.application import ask, check_command_line
from diffusion_fw.config.compose import checked, store_components
from diffusion_fw.config.groups import conf_dir
from diffusion_fw.registry import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {"_target_": "os.system", "_args_": ["true"]}}, "network has no component"),
        ({"network": {"name": "unet", "_target_": "os.system"}}, r"network\._target_: .*no such key"),
        ({"callbacks": {"mine": {"_target_": "builtins.exec"}}}, r"callbacks\.mine has no component"),
        ({"logger": {"mine": {"name": "os.system"}}}, r"logger=os\.system: no such logger"),
        ({"optimizer": {"name": "builtins.eval"}}, "no such optimizer"),
        ({"trainer": {"name": "default", "strategy": ["ddp"]}}, r"trainer\.strategy=\['ddp'\]: must be str"),
        ({"trainer": {"name": "default", "max_steps": "10"}}, r"trainer\.max_steps='10': must be int"),
    ],
)
def test_a_run_s_config_is_checked_like_the_command_line(tiny, change, message):
    with pytest.raises(ConfigError, match=message):
        checked("train", {**plain(tiny()), **change})


@pytest.mark.parametrize("word", ["+network._target_=os.system", "+network={_target_:os.system}", "network=os.system"])
def test_no_target_of_the_command_line_is_instantiated(tiny, word):
    with pytest.raises(ConfigError):
        check_command_line("train", [word])


def test_no_code_beside_a_checkpoint_is_run(untrained, tmp_path):
    """A primary config, code beside it, and plugins where the checkpoint of a stranger is, are not the program's."""
    trap = tmp_path / "it_ran"
    code = f"import os\nos.mkdir({str(trap)!r})\n"
    for name in ("conf", "plugins"):
        (tmp_path / name).mkdir()
    (tmp_path / "conf" / "sample.yaml").write_text("defaults: [nowhere]\n")
    (tmp_path / "plugins" / "stranger.py").write_text(code)
    (tmp_path / "stranger.py").write_text(code)
    (tmp_path / "sitecustomize.py").write_text(code)
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "stranger.py").write_text(code)
    (tmp_path / "last.ckpt").write_bytes(untrained("data=moons", "network=mlp").read_bytes())
    command = [sys.executable, str(ROOT / "sample.py"), "explain=true", "checkpoint=last.ckpt"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert not trap.exists()


# --------------------------------------------------------------------------------------------------------------------
# Experiment files
# --------------------------------------------------------------------------------------------------------------------

GLOBAL = "# @package _global_\n"
SETTINGS, LOOKS_UP = "changes the settings of Hydra", "looks up more than a value of the config"
CALLBACK = "callbacks: {x: {_target_: os.mkdir, path: IT_RAN, mode: 511}}"
FILES = {
    "a callback of Hydra": (f"{GLOBAL}hydra: {{{CALLBACK}}}", SETTINGS),
    "a header": (f"# @package hydra\n{CALLBACK}", SETTINGS),
    "a nested header": ("# @package _global_.hydra.callbacks\nx: {path: IT_RAN}", SETTINGS),
    "a launcher": (f"{GLOBAL}defaults: [override /hydra/launcher: joblib]", SETTINGS),
    "a relative group": (f"{GLOBAL}defaults: [/hydra/callbacks: x]", SETTINGS),
    "a package of a default": (f"{GLOBAL}defaults: ['/optimizer@hydra.callbacks.x': adamw]", SETTINGS),
    "a package that is expanded": (f"{GLOBAL}defaults: ['/hyd@_group_ra.callbacks.x': y]", "elsewhere by @"),
    "a searchpath": (f"{GLOBAL}hydra: {{searchpath: [file:///nowhere]}}", SETTINGS),
    "a target": (f"{GLOBAL}network: {{_target_: os.mkdir, path: IT_RAN}}", "names code to run"),
    "a target in a list": (f"{GLOBAL}network: {{channel_mult: [{{_target_: os.mkdir}}]}}", "names code to run"),
    "the environment": (f"{GLOBAL}data: {{path: '${{oc.env:SECRET}}'}}", LOOKS_UP),
    "the environment inside text": (f"{GLOBAL}data: {{path: 'a${{oc.env:SECRET,x}}b'}}", LOOKS_UP),
    "the environment in a default": (f"{GLOBAL}defaults: [override /data: '${{oc.env:SECRET}}']", LOOKS_UP),
    "a nested name": (f"{GLOBAL}resume: oc.env\ninit_from: '${{${{resume}}:SECRET}}'", LOOKS_UP),
    "oc.decode": (f"{GLOBAL}data: {{path: '${{oc.decode:${{x}}}}'}}", LOOKS_UP),
    "oc.create": (f"{GLOBAL}data: {{path: '${{oc.create:{{a: 1}}}}'}}", LOOKS_UP),
    "oc.select": (f"{GLOBAL}data: {{path: '${{oc.select:hydra.runtime.cwd}}'}}", LOOKS_UP),
    "a resolver of Hydra": (f"{GLOBAL}data: {{path: '${{hydra:runtime.cwd}}'}}", LOOKS_UP),
    "the node of Hydra": (f"{GLOBAL}data: {{path: '${{hydra.runtime.cwd}}'}}", LOOKS_UP),
    "the node of Hydra, from below": (f"{GLOBAL}data: {{path: '${{..hydra.runtime.cwd}}'}}", LOOKS_UP),
    "escaped": (f"{GLOBAL}data: {{path: '\\${{oc.env:SECRET}}'}}", LOOKS_UP),
    "a key": (f"{GLOBAL}'${{oc.env:SECRET}}': 1", LOOKS_UP),
    "no values": (f"{GLOBAL}a: [", "cannot be read"),
    "a list for defaults": (f"{GLOBAL}defaults: 5", "Invalid defaults list"),
    "text": ("text", "no such key"),
    "an unknown key": (f"{GLOBAL}nothing: 1", "nothing: no such key"),
    "no header": ("schedule: {num_steps: 7}", "begins with the line `# @package _global_`"),
}
PLACES = ("--config-dir", "searchpath", "preset")


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """stranger(place, content) -> the arguments that choose an experiment file which holds the content."""
    monkeypatch.setenv("SECRET", "a-secret-value")
    monkeypatch.chdir(tmp_path)
    store_components()

    def make(place, content):
        folder = tmp_path / "given" if place != "preset" else tmp_path / "conf"
        if place == "preset":
            shutil.copytree(conf_dir(), folder)
            monkeypatch.setattr(sources, "conf_dir", lambda: folder)
            monkeypatch.setattr(application, "conf_dir", lambda: folder)
        (folder / "experiment").mkdir(parents=True, exist_ok=True)
        (folder / "experiment" / "stranger.yaml").write_text(content)
        named = {"--config-dir": [f"--config-dir={folder}"], "searchpath": [f"hydra.searchpath=['file://{folder}']"]}
        return [*named.get(place, []), "experiment=stranger"]

    return make


@pytest.mark.parametrize(
    ("what", "place"), [*((what, PLACES[0]) for what in FILES), *(("the environment", place) for place in PLACES[1:])]
)
def test_an_experiment_file_holds_values_for_the_groups_alone(stranger, tmp_path, what, place):
    content, message = FILES[what]
    with pytest.raises(ConfigError, match=message) as error:
        check_command_line("train", stranger(place, content))
    assert "a-secret-value" not in str(error.value)
    assert not list(tmp_path.rglob("IT_RAN"))


@pytest.mark.parametrize("place", PLACES)
def test_an_experiment_file_of_values_is_read_wherever_it_is(stranger, place):
    content = (
        "defaults: [override /schedule: linear]\nschedule: {num_steps: 77}\nsampler: {steps: '${schedule.num_steps}'}"
    )
    (config,) = check_command_line("train", stranger(place, GLOBAL + content))
    assert (config["schedule"]["name"], config["sampler"]["steps"]) == ("linear", 77)


@pytest.mark.parametrize("path", ["hydra/callbacks/x", "experiment/hydra", "launcher/mine"])
def test_only_the_presets_of_conf_may_change_hydra(tmp_path, path):
    file = tmp_path / f"{path}.yaml"
    file.parent.mkdir(parents=True)
    content = "# @package _global_\nhydra: {launcher: {n_jobs: 9}}" if path.startswith("launcher") else "x: {}"
    file.write_text(content if path != "experiment/hydra" else "# @package _name_\nx: 1")
    group, _, name = path.rpartition("/")
    word = f"{group}={name}" if group in ("experiment", "launcher") else f"+{group}={name}"
    with pytest.raises(ConfigError, match=SETTINGS):
        check_command_line("train", [f"--config-dir={tmp_path}", word])


WORKER = """
import pickle, sys
from hydra.types import RunMode
from hydra.core.singleton import Singleton
state, loader = pickle.load(sys.stdin.buffer)
Singleton.set_state(state)
print(loader.load_configuration("train", ["experiment=stranger"], RunMode.MULTIRUN).schedule.num_steps)
"""
"""What the fresh process of a launcher does: it takes over Hydra's state, and composes the config of its job itself."""


@pytest.mark.parametrize("content", ["schedule: {num_steps: 77}", f"hydra: {{{CALLBACK}}}"])
def test_the_processes_of_a_sweep_refuse_such_files_too(tmp_path, content):
    """The file may have changed since the sweep began, and no more than MAX_CHECKED_JOBS are checked before."""
    cloudpickle = pytest.importorskip("cloudpickle")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "stranger.yaml").write_text(GLOBAL + content)
    store_components()
    asked = ask("train", [f"--config-dir={tmp_path}"])
    given = cloudpickle.dumps((Singleton.get_state(), asked.loader))
    result = subprocess.run([sys.executable, "-c", WORKER], input=given, capture_output=True, cwd=ROOT, timeout=100)
    if content.startswith("schedule"):
        assert result.stdout.split() == [b"77"], result.stderr
    else:
        assert SETTINGS.encode() in result.stderr
        assert not result.stdout


def test_a_refused_experiment_runs_nothing_and_leaves_nothing(tmp_path):
    (tmp_path / "given" / "experiment").mkdir(parents=True)
    (tmp_path / "given" / "experiment" / "x.yaml").write_text(FILES["a callback of Hydra"][0])
    for more in ([], ["-m", "seed=0,1"], ["--cfg=job"]):
        command = [sys.executable, str(ROOT / "train.py"), *more[:1], "--config-dir=given", "experiment=x", *more[1:]]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 1
        assert result.stderr.startswith("ConfigError: ")
        assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["given"]
