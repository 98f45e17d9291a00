"""A run that is stopped and resumed is the run that was not, for every experiment; and what a start takes over."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import lightning
import pytest
import torch
from examples import TINY_WORDS, plain_state
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from diffusion_fw.app.train import prepare, train
from diffusion_fw.checkpoints.warm_start import warm_start
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.config.application import ask, check_command_line
from diffusion_fw.config.compose import store_components
from diffusion_fw.config.groups import conf_dir
from diffusion_fw.registry import ConfigError
from diffusion_fw.runs.record import read_record
from diffusion_fw.runs.resume import continued, resumed
from diffusion_fw.training.durable import DurableIO
from diffusion_fw.training.signals import Interrupted

SMALL = (
    "data=digits",
    "network.channels=4",
    "network.channel_mult=[1]",
    "network.num_res_blocks=1",
    "network.attention_resolutions=[]",
    "network.num_heads=1",
    "batch_size=8",
    "features=pixels",
    "metric.num_samples=8",
    "sampler.steps=2",
    "logger=[csv]",
    "trainer=cpu",
    "trainer.max_steps=6",
    "trainer.log_every_n_steps=2",
    "callbacks.evaluation.every=3",
    "callbacks.checkpoints.every=3",
)
"""An experiment with its own process, objective, time sampler, average and rates, in the fewest steps that show it."""

OF_CLASSIFIERS = {
    "network.num_heads=1": "network.num_head_channels=4",
    "callbacks.evaluation.every=3": "callbacks.accuracy.every=3",
}
"""What a classifier has in place of some of these."""

ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")
EXPERIMENTS = sorted(
    path.stem
    for path in (conf_dir() / "experiment").glob("*.yaml")
    if path.stem == "adm_classifier" or "override /network" not in path.read_text()
)
"""Those whose network has the keys of SMALL."""


def small(experiment, *more):
    store_components()
    words = [OF_CLASSIFIERS.get(word, word) for word in SMALL] if experiment == "adm_classifier" else [*SMALL]
    if experiment.startswith("emoji"):
        # Digits have no captions.
        words[words.index("data=digits")] = "data.size=8"
    return check_command_line("train", [f"experiment={experiment}", *words, *more])[0]


class Stop(lightning.Callback):
    """Sends a signal in the middle of a step."""

    def __init__(self, step, number=signal.SIGTERM):
        self.step, self.number = step, number

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step + 1 == self.step:
            os.kill(os.getpid(), self.number)


def interrupted(config, folder, monkeypatch, *, at, number=signal.SIGTERM):
    """Train until a signal in step ``at``; the exit code."""
    from diffusion_fw.composition import experiment as composition

    def with_stop(*args):
        experiment = build_experiment(*args)
        experiment.trainer.callbacks.insert(0, Stop(at, number))
        return experiment

    with monkeypatch.context() as patch:
        patch.setattr(composition, "build_experiment", with_stop)
        with pytest.raises(Interrupted) as ended:
            train(config, folder)
    return ended.value.code


def content(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if "per_second" not in key} for row in csv.DictReader(file)]


def assert_same_run(one, other):
    assert rows(one) == rows(other)
    for name in ("last", "best"):
        first, second = content(one, name), content(other, name)
        assert first["global_step"] == second["global_step"]
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks"):
            assert plain_state(first[key]) == plain_state(second[key]), key
        assert plain_state(first["diffusion_fw"]["time_sampler"]) == plain_state(second["diffusion_fw"]["time_sampler"])


OTHERS = (
    ("flow", "ema=post_hoc", "ema.every=2"),
    ("ddpm", "time_sampler=loss_aware", "lr_schedule=cosine", "trainer.accumulate_grad_batches=2"),
)


@pytest.mark.parametrize("words", [*((name,) for name in EXPERIMENTS), *OTHERS], ids=" ".join)
def test_a_run_that_was_interrupted_and_resumed_is_the_one_that_was_not(words, tmp_path, monkeypatch):
    config = small(*words)
    train(config, tmp_path / "whole")
    assert interrupted(config, tmp_path / "cut", monkeypatch, at=5) == 143
    assert content(tmp_path / "cut")["global_step"] == 5
    again = resumed({**check_command_line("train", [])[0], "resume": str(tmp_path / "cut")}, ask("train", []))
    train(again, tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was stopped by Ctrl-C in its fourth step."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        assert interrupted(small("flow"), folder, patch, at=4, number=signal.SIGINT) == 130
    return folder


def asked(run, *words):
    asked = ask("train", [f"resume={run}", *words])
    return resumed(asked.configs[0], asked)


def test_the_handlers_of_before_are_back_after_a_run(run):
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("network.channels=8", "network.channels=8"),
        ("data=moons", "data.name=moons"),
        ("schedule=vp", "schedule.name=vp"),
        ("seed=3", "seed=3"),
        ("batch_size=16", "batch_size=16"),
        ("trainer.gradient_clip_val=2", "trainer.gradient_clip_val=2"),
        ("experiment=edm", "schedule.name=edm"),
    ],
)
def test_what_would_make_it_another_run_is_refused_by_name(run, word, key):
    with pytest.raises(ConfigError, match=f"^{key}.*cannot be changed by resume"):
        asked(run, word)


def test_the_command_line_of_before_may_be_repeated(run):
    assert asked(run, "experiment=flow", *SMALL)["network"]["channels"] == 4


def test_what_does_not_change_the_run_may_be_changed(run):
    config = asked(run, "trainer.max_steps=9", "callbacks.checkpoints.every=4", "logger=[csv,tensorboard]")
    assert config["trainer"]["max_steps"] == 9
    assert config["trainer"]["log_every_n_steps"] == 2
    assert config["callbacks"]["checkpoints"]["every"] == 4
    assert list(config["logger"]) == ["csv", "tensorboard"]
    assert config["network"]["channels"] == 4
    with pytest.raises(ConfigError, match=r"trainer.max_steps=3: .* has taken 4 steps"):
        asked(run, "trainer.max_steps=3")


def test_another_trainer_brings_its_differences_alone(run):
    assert asked(run, "trainer=ddp_cpu")["trainer"] == {
        **asked(run)["trainer"],
        "devices": 2,
        "strategy": "ddp",
    }


def test_resuming_is_refused_where_there_is_nothing_or_several(run, tmp_path):
    with pytest.raises(ConfigError, match=r"no checkpoints/last.ckpt"):
        asked(tmp_path)
    with pytest.raises(ConfigError, match="no such file"):
        asked(tmp_path / "nowhere.ckpt")
    with pytest.raises(ConfigError, match="a sweep cannot"):
        prepare(ask("train", ["-m", "seed=0,1", f"resume={run}"]))
    with pytest.raises(ConfigError, match="in its own folder"):
        prepare(ask("train", [f"resume={run}", "hydra.run.dir=other"]))


def test_processes_that_lightning_starts_resume_the_same_run(tmp_path):
    """Each runs the command line again, and finds the config in the checkpoint and the folder beside it."""
    store_components()
    train(check_command_line("train", [*TINY_WORDS, "trainer.max_steps=4"])[0], tmp_path / "run")
    arguments = ["resume=run", "trainer.max_steps=6", "trainer.devices=2", "trainer.strategy=ddp"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(ROOT / "train.py"), *arguments], cwd=tmp_path, env=environment, check=True)
    assert content(tmp_path / "run")["global_step"] == 6
    assert content(tmp_path / "run")["diffusion_fw"]["config"]["network"]["width"] == 8
    assert (tmp_path / "run" / ".hydra_resume").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_job_goes_on_in_its_folder_only_with_the_config_it_began_with(tmp_path, monkeypatch):
    config = small("flow")
    train(config, tmp_path)
    sweeper = OmegaConf.create({"sweeper": {"job": 0}})
    assert continued(config, tmp_path) == config, "a single run"
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: sweeper)
    assert continued(config, tmp_path) == {**config, "resume": str(tmp_path)}
    assert continued(config, tmp_path / "other") == config
    longer = {**config, "trainer": {**config["trainer"], "max_steps": 100}}
    assert continued(longer, tmp_path)["resume"]
    fewer = {**config, "sampler": {"name": config["sampler"]["name"]}}
    with pytest.raises(ConfigError, match=r"holds a run with sampler\.steps=2, now it is None"):
        continued(fewer, tmp_path)
    with pytest.raises(ConfigError, match=r"holds a run with seed=0, now it is 1; choose another hydra\.sweep\.dir"):
        continued({**config, "seed": 1}, tmp_path)


@pytest.mark.filterwarnings("ignore:sampler.solver_order is now called:FutureWarning")
def test_a_job_begun_under_a_former_name_goes_on(tmp_path, monkeypatch):
    config = small("flow", "sampler=unipc")
    train(config, tmp_path)
    file = tmp_path / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    sampler = content["diffusion_fw"]["config"]["sampler"]
    sampler["solver_order"] = sampler.pop("predictor_order")
    torch.save(content, file)
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create({"sweeper": {"job": 0}}))
    assert continued(config, tmp_path) == {**config, "resume": str(tmp_path)}


def test_a_checkpoint_that_does_not_say_its_step_is_refused(tmp_path):
    train(small("flow"), tmp_path)
    file = tmp_path / "checkpoints" / "last.ckpt"
    torch.save({**torch.load(file, weights_only=True), "global_step": "x"}, file)
    with pytest.raises(ConfigError, match="does not say which step it reached"):
        asked(tmp_path)


def test_a_finished_run_says_so_and_returns_its_best(tmp_path, capsys):
    first, again = train(small("flow"), tmp_path), train(asked(tmp_path), tmp_path)
    assert again.name == first.name
    assert again.value == pytest.approx(first.value, rel=1e-6)
    assert "has taken its 6 steps" in capsys.readouterr().out


def test_a_longer_cosine_is_that_of_the_new_length(tmp_path):
    """After the warm-up lr is a function of step / max_steps, whatever max_steps was when the run began."""
    knobs = ["lr_schedule=cosine", "lr_schedule.warmup_steps=1", "trainer.log_every_n_steps=1"]
    train(small("flow", *knobs), tmp_path / "short")
    train(asked(tmp_path / "short", "trainer.max_steps=12"), tmp_path / "short")
    train(small("flow", *knobs, "trainer.max_steps=12"), tmp_path / "long")
    rates = [[row["train/lr"] for row in rows(tmp_path / name) if row["train/lr"]] for name in ("short", "long")]
    assert rates[0][6:] == rates[1][6:]
    assert rates[0][:6] != rates[1][:6]


# --------------------------------------------------------------------------------------------------------------------
# Warm start
# --------------------------------------------------------------------------------------------------------------------


def test_a_warm_start_copies_what_fits_and_names_what_does_not(run, tmp_path):
    module = build_experiment(
        small("edm", "network.channel_mult=[1,2]", "network.class_conditional=true"), tmp_path
    ).module
    told = warm_start(module, str(run))
    given = content(run)["state_dict"]
    key = "network.enter.weight"
    for denoiser in (module.denoiser, module.averaged):
        assert torch.equal(denoiser.state_dict()[key], given[f"averaged.{key}"])
    raw = warm_start(module, str(run), raw_weights=True)
    assert torch.equal(module.denoiser.state_dict()[key], given[f"denoiser.{key}"])
    assert "raw weights" in raw
    for part in ("ema weights", "of another shape", "missing there"):
        assert part in told


def test_a_warm_start_gives_every_average_the_weights(run, tmp_path):
    module = build_experiment(small("flow", "ema=post_hoc"), tmp_path).module
    warm_start(module, str(run))
    for _, averaged in module.tracks():
        for key, value in averaged.state_dict().items():
            assert torch.equal(value, content(run)["state_dict"][f"averaged.{key}"]), key


def test_a_checkpoint_of_weights_alone_cannot_be_resumed(run, tmp_path):
    weights = content(run)
    del weights["optimizer_states"]
    torch.save(weights, tmp_path / "weights.ckpt")
    with pytest.raises(ConfigError, match=r"holds no optimizer_states.*init_from="):
        asked(tmp_path / "weights.ckpt")


def test_a_warm_start_from_nothing_alike_is_refused(run, tmp_path):
    store_components()
    config = check_command_line("train", ["data=moons", "network=mlp", "trainer=cpu"])[0]
    with pytest.raises(ConfigError, match=r"no weight of it .* its network is unet"):
        warm_start(build_experiment(config, tmp_path).module, str(run))


# --------------------------------------------------------------------------------------------------------------------
# Trouble outside
# --------------------------------------------------------------------------------------------------------------------


def full_disk(monkeypatch, times):
    """Writing checkpoints fails so often, as on a full disk."""
    write, left = torch.save, [times]

    def failing(content, file):
        if left[0]:
            left[0] -= 1
            file.write(b"some")
            raise OSError(28, "No space left on device")
        write(content, file)

    monkeypatch.setattr(torch, "save", failing)


def test_a_checkpoint_that_cannot_be_written_is_tried_again_at_the_next(tmp_path, monkeypatch, caplog):
    full_disk(monkeypatch, 2)
    train(small("flow"), tmp_path)
    assert content(tmp_path)["global_step"] == 6
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    told = [record.getMessage() for record in caplog.records if "No space left" in record.getMessage()]
    best, last = sorted(told)
    assert best.endswith(
        "best.ckpt failed: No space left on device; training continues, and the best of the next evaluations is saved"
    )
    assert last.endswith(
        "last.ckpt failed: No space left on device; training continues, and the next interval tries again"
    )


def test_a_state_that_a_signal_would_have_left_is_told_as_lost_and_ends_in_failure(tmp_path, monkeypatch, caplog):
    full_disk(monkeypatch, 100)
    assert interrupted(small("flow"), tmp_path, monkeypatch, at=2) == 1
    told = [record.getMessage() for record in caplog.records if "No space left" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("the state of step 2 is lost: ")


def test_a_run_without_its_final_checkpoint_ends_in_an_error(tmp_path, monkeypatch):
    full_disk(monkeypatch, 100)
    with pytest.raises(ConfigError, match=r"the final checkpoint .* could not be written: .*No space left"):
        train(small("flow"), tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
def test_a_full_device_is_an_error_of_the_system(tmp_path, monkeypatch):
    """torch's own writer would make of it an error of its archive."""
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode: opened(FULL, "wb"))
    with pytest.raises(OSError, match="No space left"):
        DurableIO().save_checkpoint({"weights": torch.zeros(1_000_000)}, tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_checkpoint_of_before(tmp_path, monkeypatch):
    writer = DurableIO()
    writer.save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    full_disk(monkeypatch, 1)
    with pytest.raises(OSError, match="No space left"):
        writer.save_checkpoint({"step": 2}, tmp_path / "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert writer.load_checkpoint(tmp_path / "last.ckpt") == {"step": 1}


class Vanish(lightning.Callback):
    """Removes the run's folder after a step."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 4:
            self.folder.rename(self.folder.with_name("gone"))


def test_a_folder_that_vanishes_is_made_again_with_every_number(tmp_path, monkeypatch):
    from diffusion_fw.composition import experiment as composition

    folder = tmp_path / "run"

    def with_vanish(*args):
        experiment = build_experiment(*args)
        experiment.trainer.callbacks.append(Vanish(folder))
        return experiment

    train(small("flow"), tmp_path / "undisturbed")
    monkeypatch.setattr(composition, "build_experiment", with_vanish)
    train(small("flow"), folder)
    assert rows(folder) == rows(tmp_path / "undisturbed")
    assert content(folder)["global_step"] == 6


# --------------------------------------------------------------------------------------------------------------------
# A stranger's run
# --------------------------------------------------------------------------------------------------------------------


def copied(run, folder, change=lambda content: None):
    """A copy of a run whose last.ckpt holds the content after change(content)."""
    shutil.copytree(run, folder)
    forged = content(folder)
    change(forged)
    torch.save(forged, folder / "checkpoints" / "last.ckpt")
    return folder


@pytest.mark.parametrize(
    "place", ["train.log", "metrics.csv", "checkpoints/best.ckpt", ".run.lock", "samples/x", "wandb"]
)
def test_a_link_in_the_folder_is_refused_and_nothing_is_written_through_it(run, tmp_path, place):
    folder = copied(run, tmp_path / "copy")
    target = tmp_path / "target"
    target.write_text("mine")
    (folder / place).unlink(missing_ok=True)
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).symlink_to(target)
    with pytest.raises(ConfigError, match=f"{place} is a link"):
        asked(folder)
    assert target.read_text() == "mine"


def test_a_link_to_a_folder_is_refused_but_not_those_of_wandb_to_its_own_files(run, tmp_path):
    folder = copied(run, tmp_path / "copy")
    (folder / "wandb" / "run-1").mkdir(parents=True)
    (folder / "wandb" / "latest-run").symlink_to("run-1")
    asked(folder)
    (folder / "wandb" / "other").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="wandb/other is a link"):
        asked(folder)


def test_loggers_and_the_cache_are_those_of_the_user(run, tmp_path, caplog):
    def change(content):
        config = content["diffusion_fw"]["config"]
        config["logger"] = {"wandb": {"name": "wandb", "mode": "online", "entity": "stranger"}}
        config["metric"]["cache_dir"] = "/somewhere"

    folder = copied(run, tmp_path / "copy", change)
    assert list(asked(folder)["logger"]) == ["csv"]
    assert "the run logged with logger=[wandb], and goes on with logger=[csv]" in caplog.text
    assert asked(folder)["metric"]["cache_dir"] is None
    caplog.clear()
    own = asked(folder, "logger=[csv,wandb]", "logger.wandb.mode=offline", "metric.cache_dir=here")
    assert (own["logger"]["wandb"]["mode"], own["logger"]["wandb"]["entity"]) == ("offline", None)
    assert own["metric"]["cache_dir"] == "here"
    assert not caplog.text


FORGED = {
    "global_step": "x",
    "optimizer_states": {},
    "lr_schedulers": "x",
    "loops": [],
    "callbacks": [1],
}


@pytest.mark.parametrize("key", FORGED)
def test_a_state_of_another_type_is_one_message(run, tmp_path, key):
    folder = copied(run, tmp_path / "copy", lambda content: content.update({key: FORGED[key]}))
    with pytest.raises(ConfigError, match=rf"it is damaged: its {key} must be "):
        asked(folder)


@pytest.mark.parametrize("step", [True, -1, 2**70, 1.0, None, [4]])
def test_a_step_that_is_no_number_of_steps_is_one_message(run, tmp_path, step):
    folder = copied(run, tmp_path / "copy", lambda content: content.update(global_step=step))
    with pytest.raises(ConfigError, match="its global_step must be int at least 0"):
        asked(folder)


def forge(path, value):
    def change(content):
        *above, last = path
        for key in above:
            content = content[key]
        content[last] = value

    return change


def _state(content):
    return content["optimizer_states"][0]["state"]


DAMAGED = {
    "shape": (lambda c: _state(c)[0].update(exp_avg=torch.zeros(7)), "exp_avg of parameter 0 has the shape"),
    "missing tensor": (lambda c: _state(c)[1].pop("exp_avg_sq"), "parameter 1 lacks exp_avg_sq"),
    "missing": (lambda c: _state(c).clear(), "it has none"),
    "too many": (lambda c: _state(c).update({999: dict(_state(c)[0])}), "for parameter 999 of"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_state_of_the_optimizer_that_does_not_fit_is_one_message(run, tmp_path, what):
    change, message = DAMAGED[what]
    folder = copied(run, tmp_path / "copy", change)
    with pytest.raises(ConfigError, match=f"state of its optimizer does not fit its model: .*{message}") as error:
        train(asked(folder), folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "path",
    [
        ("optimizer_states", 0),
        ("optimizer_states", 0, "param_groups"),
        ("lr_schedulers", 0),
        ("loops", "fit_loop"),
        ("callbacks", "History"),
        ("callbacks", "History", "distances"),
        ("losses_since_record",),
        ("loggers",),
    ],
    ids=lambda path: "-".join(map(str, path)),
)
def test_a_state_that_cannot_be_restored_is_one_message(run, tmp_path, path):
    folder = copied(run, tmp_path / "copy", forge(path, "x"))
    with pytest.raises(ConfigError, match="its state cannot be restored") as error:
        train(asked(folder, "logger=[csv,wandb]", "logger.wandb.mode=offline"), folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("trainer", [1]), ("sampler", {"name": [1]}), ("sampler", None), ("callbacks", "x"), ("seed", "x")],
)
def test_a_config_of_another_type_is_one_message(run, tmp_path, key, value):
    folder = copied(run, tmp_path / "copy", forge(("diffusion_fw", "config", key), value))
    with pytest.raises(ConfigError, match=key):
        asked(folder)


@pytest.mark.parametrize("path", [("sampler", "steps"), ("callbacks",), ("nothing",), ("guidance", "x")])
def test_a_config_that_contains_itself_is_one_message_or_ignored(run, tmp_path, path):
    cycle: dict = {}
    cycle["x"] = cycle
    folder = copied(run, tmp_path / "copy", forge(("diffusion_fw", "config", *path), cycle))
    if path == ("nothing",):
        assert "nothing" not in asked(folder)
        return
    with pytest.raises(ConfigError):
        asked(folder)


@pytest.mark.parametrize("text", ["a,b\r\n1,2\r\n", "step\r\nx\r\n", "\xff\xfe"])
def test_a_metrics_file_that_is_none_is_one_message(run, tmp_path, text):
    folder = copied(run, tmp_path / "copy")
    (folder / "metrics.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"metrics\.csv cannot be continued"):
        train(asked(folder), folder)


def test_a_pipe_for_a_metrics_file_or_a_record_is_not_waited_for(run, tmp_path):
    folder = copied(run, tmp_path / "copy")
    for name in ("metrics.csv", "run.json"):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
    assert read_record(folder) is None
    with pytest.raises(ConfigError, match="a pipe, not a regular file"):
        train(asked(folder), folder)
