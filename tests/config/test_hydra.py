"""Hydra behaves as Hydra: the rows of docs/hydra.md, by what Hydra itself parses and composes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from diffusion_fw import registry
from diffusion_fw.app import evaluate as evaluate_program
from diffusion_fw.app import overview
from diffusion_fw.app import sample as sample_program
from diffusion_fw.app import train as train_program
from diffusion_fw.app.help import print_help
from diffusion_fw.app.train import prepare
from diffusion_fw.checkpoints.read import read
from diffusion_fw.config import groups, sources
from diffusion_fw.config.application import ask, check_command_line, launch
from diffusion_fw.config.compose import choices, node
from diffusion_fw.config.origins import origins
from diffusion_fw.registry import ConfigError
from diffusion_fw.sweeps import grid_sweep

GLOBAL = "# @package _global_\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(groups.CONF_VARIABLE, raising=False)
    return tmp_path


@pytest.fixture
def given(here):
    """A folder of configs: an experiment, a primary config, and a sweep that is kept in a file."""
    folder = here / "given"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "mine.yaml").write_text(f"{GLOBAL}seed: 7\n")
    (folder / "experiment" / "more.yaml").write_text(f"{GLOBAL}seed: 8\n")
    (folder / "own.yaml").write_text("defaults: [train, _self_]\nseed: 9\n")
    (folder / "experiment" / "sweep.yaml").write_text(
        f"{GLOBAL}hydra:\n  mode: MULTIRUN\n  sweeper:\n    max_batch_size: 2\n"
        "    params: {schedule: 'linear,cosine', sampler.steps: 'range(5,7)'}\n"
    )
    return folder


def train(*words):
    return check_command_line("train", list(words))


def never(config):
    raise AssertionError("nothing is to run")


# --------------------------------------------------------------------------------------------------------------------
# The search path, and Hydra's options
# --------------------------------------------------------------------------------------------------------------------


def test_explain_and_resume_see_what_the_options_add(given, monkeypatch):
    seen = []
    monkeypatch.setattr("diffusion_fw.app.explain.explain", lambda config, asked: seen.append((config, asked)))
    launch("train", [f"--config-dir={given}", "explain=true", "experiment=mine"], never, prepare)
    (config, asked) = seen[0]
    assert config["seed"] == 7
    assert origins(asked)["seed"] == f"{given}/experiment/mine.yaml"
    with pytest.raises(ConfigError, match="resume=nowhere: no such file or folder"):
        launch("train", [f"--config-dir={given}", "resume=nowhere"], never, prepare)


def test_another_primary_config_is_checked_as_the_own_one(given):
    words = [f"--config-dir={given}", "--config-name=own"]
    assert train(*words)[0]["seed"] == 9
    with pytest.raises(ConfigError, match="did you mean 'ddim'"):
        train(*words, "sampler=ddmi")
    with pytest.raises(ConfigError, match="Cannot find primary config 'nothing'"):
        train("--config-name=nothing")


def test_experiments_of_a_searchpath_are_choices_with_an_origin(given):
    words = [f"hydra.searchpath=['file://{given}']", "experiment=mine"]
    asked = ask("train", words)
    assert asked.configs[0]["seed"] == 7
    assert origins(asked)["seed"] == f"{given}/experiment/mine.yaml"
    with pytest.raises(ConfigError, match=r"experiment=mien: .*did you mean 'mine'"):
        train(words[0], "experiment=mien")


def test_cfg_prints_a_config_that_can_run_and_no_other(capsys):
    launch("train", ["--cfg=job", "sampler.steps=7"], never, prepare)
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown)["sampler"]["steps"] == 7
    for word in ("sampler.steps=abc", "sampler=ddmi", "+foo=1"):
        with pytest.raises(ConfigError):
            launch("train", ["--cfg=job", word], never, prepare)


def test_a_folder_conf_of_the_working_directory_and_named_ones_are_searched(here, given, monkeypatch):
    (here / "conf" / "sampler").mkdir(parents=True)
    (here / "conf" / "sampler" / "nine.yaml").write_text("defaults: [ddim]\nsteps: 9\n")
    assert train("sampler=nine")[0]["sampler"]["steps"] == 9
    assert "nine" in choices("sampler")
    monkeypatch.setenv(groups.CONF_VARIABLE, str(given))
    assert train("experiment=mine", "sampler=nine")[0]["seed"] == 7
    monkeypatch.setenv(groups.CONF_VARIABLE, "nowhere")
    with pytest.raises(ConfigError, match="DIFFUSION_FW_CONF: there is no such folder of configs: nowhere"):
        train()


def test_only_a_folder_that_the_environment_names_may_change_hydra(here, monkeypatch):
    """conf/ of the working directory may have come with a stranger's files."""
    (here / "conf" / "launcher").mkdir(parents=True)
    (here / "conf" / "launcher" / "mine.yaml").write_text(f"{GLOBAL}hydra: {{sweep: {{dir: elsewhere}}}}\n")
    with pytest.raises(ConfigError, match=r"changes the settings of Hydra.*DIFFUSION_FW_CONF"):
        train("launcher=mine")
    monkeypatch.setenv(groups.CONF_VARIABLE, str(here / "conf"))
    assert ask("train", ["launcher=mine"]).hydra.sweep.dir == "elsewhere"


def test_a_file_does_not_take_the_name_of_a_component(here):
    (here / "conf" / "sampler").mkdir(parents=True)
    (here / "conf" / "logger").mkdir()
    for group, name in (("sampler", "ddim"), ("logger", "none")):
        (here / "conf" / group / f"{name}.yaml").write_text("name: ddim\nsteps: 1\n")
        with pytest.raises(ConfigError, match=rf"has the name of a registered component, {group}={name}; rename"):
            train(f"{group}={name}")
        (here / "conf" / group / f"{name}.yaml").unlink()


# --------------------------------------------------------------------------------------------------------------------
# Words
# --------------------------------------------------------------------------------------------------------------------

WORDS = {
    "logger=null": "say logger=none",
    "callbacks=null": "say callbacks=none",
    "sampler=null": "choose from: .*ddim",
    "+experiment=ddpm": r"say experiment=ddpm",
    "hydra/sweeper=optuna": "say sweep=optuna",
    "hydra/launcher=slurm": "say launcher=..., one of: .*submitit_slurm",
    "hydra.launcher=joblib": "say launcher=joblib",
    "hydra.sweeper=optuna": "say sweep=optuna",
    "+sampler@other=ddpm": "a config has one sampler",
    "trainer.max_epochs=3": "counts steps: trainer.max_steps=N",
    "trainer.limit_train_batches=0.1": "trainer.overfit_batches=N",
    "trainer.fast_dev_run=true": "debug=fast",
    "+trainer.logger=csv": r"it is a group of its own, logger=\[csv,wandb\]",
    "hydra.sweeper.params={seed:'0,1'}": "keeps a sweep over seed=0,1: add -m or hydra.mode=MULTIRUN",
    "hydra.sweeper.max_batch_size=0": "must be at least 1",
}


@pytest.mark.parametrize("word", WORDS)
def test_another_word_is_answered_by_the_right_one(word):
    with pytest.raises(ConfigError, match=WORDS[word]) as error:
        train(word)
    assert "\n" not in str(error.value)
    assert word.partition("=")[0].lstrip("+").split(".")[0] in str(error.value)


@pytest.mark.parametrize("program", ["train", "sample", "evaluate"])
@pytest.mark.parametrize(
    ("word", "nearest"), [("+sede=1", "did you mean 'seed'"), ("+labels=[3]", "labels: no such key")]
)
def test_an_added_key_that_nothing_reads_is_refused(program, word, nearest):
    model = [] if program == "train" else ["checkpoint=x"]
    with pytest.raises(ConfigError, match=nearest):
        check_command_line(program, [*model, word])


NUMBERS = {
    "seed": ("7", 7),
    "optimizer.lr": ("1e-3", 0.001),
    "compile": ("true", True),
    "init_from": ("2024", "2024"),
    "optimizer.betas": ("[0.5,0.9]", (0.5, 0.9)),
}


@pytest.mark.parametrize("key", NUMBERS)
def test_text_of_the_environment_is_read_as_what_is_wanted(key, monkeypatch):
    text, value = NUMBERS[key]
    monkeypatch.setenv("GIVEN_VALUE", text)
    config = train(f"{key}=${{oc.env:GIVEN_VALUE}}")[0]
    for part in key.split("."):
        config = config[part]
    assert config == value
    monkeypatch.setenv("GIVEN_VALUE", "many")
    if key == "seed":
        with pytest.raises(ConfigError, match="seed='many': must be int"):
            train("seed=${oc.env:GIVEN_VALUE}")


# --------------------------------------------------------------------------------------------------------------------
# Sweeps
# --------------------------------------------------------------------------------------------------------------------


def settings(configs):
    return [(config["schedule"]["name"], config["sampler"]["steps"]) for config in configs]


def test_a_glob_sweeps_over_what_it_matches(given):
    named = [config["sampler"]["name"] for config in train("-m", "sampler=glob(dd*)")]
    assert named == ["ddim", "ddpm"]
    seeds = [config["seed"] for config in train(f"--config-dir={given}", "-m", "experiment=glob(mor*)")]
    assert seeds == [8]
    assert len(train(f"hydra.searchpath=['file://{given}']", "-m", "experiment=glob(mi*)")) == 2
    with pytest.raises(ConfigError, match=r"sampler\.steps=0: .*; in the job schedule=vp sampler\.steps=0$"):
        train("-m", "schedule=vp,flow", "sampler.steps=5,0")


def test_a_sweep_is_kept_in_a_file_and_the_command_line_replaces_its_keys(given):
    words = [f"--config-dir={given}", "experiment=sweep"]
    asked = ask("train", words)
    assert asked.multirun
    assert settings(asked.configs) == [("linear", 5), ("linear", 6), ("cosine", 5), ("cosine", 6)]
    assert settings(train(*words, "sampler.steps=8,9", "schedule=vp")) == [("vp", 8), ("vp", 9)]


@pytest.mark.parametrize("params", ["{seed: '0,1'}", "['seed=0,1']"])
def test_a_sweep_is_kept_on_the_command_line_as_hydra_spells_it(params):
    assert [config["seed"] for config in train("-m", f"+hydra.sweeper.params={params}")] == [0, 1]
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir=a,b: settings of Hydra cannot be swept"):
        train("-m", "hydra.sweeper.params={hydra.run.dir: 'a,b'}")


REFUSED = {
    "params of Hydra": "hydra: {sweeper: {params: {hydra.launcher._target_: os.system}}}",
    "params that add to Hydra": "hydra: {sweeper: {params: {+hydra.callbacks.x._target_: os.system}}}",
    "params that look up": "hydra: {sweeper: {params: {seed: '${oc.env:HOME}'}}}",
    "a storage": "hydra: {sweeper: {storage: 'sqlite:////tmp/x'}}",
    "a folder": "hydra: {sweep: {dir: /tmp/x}}",
    "a target": "hydra: {sweeper: {_target_: os.system}}",
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_file_of_a_sweep_holds_values_alone(given, what):
    (given / "experiment" / "bad.yaml").write_text(f"{GLOBAL}{REFUSED[what]}\n")
    with pytest.raises(ConfigError, match=r"changes the settings of Hydra|looks up more than a value"):
        train(f"--config-dir={given}", "experiment=bad", "-m")
    assert sources.SWEEP_KEYS.isdisjoint({"_target_", "storage", "job", "trial"})


def test_no_more_jobs_than_asked_for_are_launched_together(tmp_path):
    counts = []

    def launch_jobs(overrides, first):
        counts.append((first, len(overrides)))
        raise RuntimeError("a launcher that runs nothing")

    sweeper = {"params": {"seed": "range(0,5)"}, "max_batch_size": 2}
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}, "sweeper": sweeper}})
    with pytest.raises(Exception, match="5 of 5 jobs did not finish"):
        grid_sweep.sweep(config, [], None, launch_jobs)
    assert counts == [(0, 2), (2, 2), (4, 1)]


def test_a_sweep_of_several_processes_is_refused_however_it_is_asked_for(given):
    for words in (
        ["-m", "seed=0,1"],
        ["hydra.mode=MULTIRUN", "seed=0,1"],
        [f"--config-dir={given}", "experiment=sweep"],
    ):
        with pytest.raises(ConfigError, match="would run the whole sweep again"):
            prepare(ask("train", [*words, "trainer=ddp_cpu"]))


# --------------------------------------------------------------------------------------------------------------------
# Presets, files and programs
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", [[], ["experiment=edm"], ["experiment=adm_classifier"]])
@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("fast", "max_steps", 2), ("overfit", "overfit_batches", 1), ("profiler", "profiler", "simple")],
)
def test_debug_presets_change_any_experiment(name, key, value, experiment):
    (config,) = train(f"debug={name}", *experiment)
    assert config["trainer"][key] == value
    assert (name == "overfit") == bool(config["logger"])


def test_debug_limit_runs_all_of_it_on_little():
    (config,) = train("debug=limit")
    assert (config["trainer"]["max_steps"], config["metric"]["num_samples"]) == (20, 64)
    assert "evaluation" in config["callbacks"]


def test_gradients_are_clipped_by_value_or_by_norm(tiny, tmp_path):
    import lightning

    from diffusion_fw.composition.experiment import build_experiment

    class Seen(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            found = torch.cat([item.grad.flatten() for item in pl_module.trained if item.grad is not None])
            self.largest, self.norm = float(found.abs().max()), float(found.norm())

    for algorithm, exact in (("value", "largest"), ("norm", "norm")):
        changes = {"trainer.gradient_clip_algorithm": algorithm, "trainer.gradient_clip_val": 1e-3}
        experiment = build_experiment(tiny({**changes, "trainer.max_steps": 1}), tmp_path / algorithm)
        experiment.trainer.callbacks.insert(0, seen := Seen())
        experiment.trainer.fit(experiment.module)
        assert getattr(seen, exact) == pytest.approx(1e-3, rel=1e-4)
        assert float(experiment.module.gradient_norm) > 1e-3


def test_the_trainer_s_arguments_reach_lightning(tiny, tmp_path):
    from diffusion_fw.composition.experiment import build_experiment

    changes = {
        "trainer.max_time": "00:00:05:00",
        "trainer.profiler": "simple",
        "trainer.detect_anomaly": True,
        "trainer.gradient_clip_algorithm": "value",
        "trainer.overfit_batches": 2,
    }
    experiment = build_experiment(tiny(changes), tmp_path)
    trainer = experiment.trainer
    assert type(trainer.profiler).__name__ == "SimpleProfiler"
    assert trainer._detect_anomaly
    assert trainer.gradient_clip_algorithm == "value"
    assert any(type(callback).__name__ == "Timer" for callback in trainer.callbacks)
    trainer.fit(experiment.module)
    first, second, third = (experiment.module.batch_of_step(step)[0] for step in (1, 2, 3))
    assert first == third != second
    assert "Total time" in (tmp_path / "fit-profile.txt").read_text() or (tmp_path / "fit-profile.txt").stat().st_size
    with pytest.raises(ConfigError, match=r"trainer\.max_time=5h: must be DD:HH:MM:SS"):
        build_experiment(tiny({"trainer.max_time": "5h"}), tmp_path)


def test_every_choice_is_written_as_a_file_that_says_the_same(here):
    written = list(overview.write_choices(["all"], here / "choices"))
    assert len(written) == sum(len(registry.names(group)) for group in registry.GROUPS if group != "settings")
    for path in written:
        entry = registry.entry(path.parent.name, path.stem)
        expected = {key: value for key, value in node(entry).items() if key not in entry.renamed}
        assert yaml.safe_load(path.read_text()) == expected, path


def test_a_written_choice_is_a_choice_of_the_user(here, capsys):
    assert overview.main(["conf", "write", "schedule=linear", "callbacks=evaluation"]) == 0
    assert capsys.readouterr().out.split() == ["conf/schedule/my_linear.yaml", "conf/callbacks/my_evaluation.yaml"]
    path = here / "conf" / "schedule" / "my_linear.yaml"
    path.write_text(path.read_text().replace("num_steps: 1000", "num_steps: 77"))
    (config,) = train("schedule=my_linear", "callbacks=[my_evaluation]", "callbacks.evaluation.every=3")
    assert (config["schedule"]["name"], config["schedule"]["num_steps"]) == ("linear", 77)
    assert config["callbacks"]["evaluation"]["every"] == 3
    assert overview.main(["conf", "write", "schedule=linear"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert overview.main(["conf", "write", "schedule=liner"]) == 1
    assert "did you mean 'linear'" in capsys.readouterr().err


def test_the_package_lists_its_programs(capsys):
    assert overview.main([]) == 0
    shown = capsys.readouterr().out
    scripts = re.findall(
        r"^(dfw-\w+) =", (Path(__file__).parents[2] / "pyproject.toml").read_text(), flags=re.MULTILINE
    )
    assert scripts
    for name in (*scripts, "diffusion_fw.verify", "diffusion_fw.provenance", "conf write"):
        assert name in shown


@pytest.mark.parametrize(("called", "shown"), [("/usr/bin/dfw-train", "dfw-train"), ("train.py", "python train.py")])
def test_help_names_the_program_as_it_was_called(called, shown, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [called, "--help"])
    monkeypatch.setenv("COLUMNS", "150")
    print_help("train", [])
    assert f"{shown} --help sampler=ddim" in capsys.readouterr().out


def test_train_reads_plugins_of_the_working_directory_and_programs_for_strangers_checkpoints_do_not(monkeypatch):
    folders = {}
    for name, program in (("train", train_program), ("sample", sample_program), ("evaluate", evaluate_program)):
        monkeypatch.setattr(
            program, "run", lambda *args, name=name, **kwargs: folders.update({name: kwargs["plugins"]})
        )
        program.main()
    assert folders == {"train": [None, Path("plugins")], "sample": [None], "evaluate": [None]}


def test_a_run_s_folder_stands_for_its_newest_checkpoint(untrained, tmp_path):
    from diffusion_fw.app.trained_model import open_trained

    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(untrained("data=moons", "network=mlp").read_bytes())
    assert read(tmp_path / "run")["global_step"] == 0
    (config,) = check_command_line("sample", [f"checkpoint={tmp_path / 'run'}", "device=cpu"])
    assert open_trained(config).config["checkpoint"] == str(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"checkpoint=.*empty: no checkpoints/last\.ckpt"):
        read(tmp_path / "empty")


def test_params_of_a_file_put_no_choice_elsewhere():
    with pytest.raises(ConfigError, match="cannot be put elsewhere by @"):
        train("-m", "+hydra.sweeper.params=['seed=0,1','+sampler@other=ddim']")
