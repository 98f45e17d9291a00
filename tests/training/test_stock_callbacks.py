"""Lightning's own callbacks act in a run as in any other: an evaluation is a run of the validation loop."""

from __future__ import annotations

import csv
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch import callbacks as stock

from diffusion_fw.app.train import train
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.metrics.metric import TrackedMetric
from diffusion_fw.registry import ConfigError
from diffusion_fw.training import lightning_internals
from diffusion_fw.training.loggers import metrics_file

EVERY_STEP = {"callbacks.evaluation.every": 1, "callbacks.checkpoints.every": 100, "trainer.max_steps": 8}


def test_the_internals_are_those_of_the_version_that_was_read():
    assert lightning.__version__.startswith(f"{lightning_internals.READ_IN}."), (
        "read lightning_internals.py against this version, and state it there"
    )


class Given(TrackedMetric):
    """A metric whose distance at each step is given."""

    num_samples = 8

    def __init__(self, values):
        self.values, self.measured = dict(enumerate(values, start=1)), 0

    def name(self, weights):
        return f"given/{weights}"

    def reset(self):
        pass

    def update(self, generated):
        pass

    def compute(self):
        self.measured += 1
        return self.values[self.step()]

    def floor(self):
        return 0.0


def with_distances(config, folder, values, *callbacks):
    experiment = build_experiment(config, folder)
    experiment.evaluation.metric = Given(values)
    experiment.evaluation.metric.step = lambda: experiment.trainer.global_step
    experiment.trainer.callbacks.extend(callbacks)
    return experiment


def fit(experiment, checkpoint=None):
    experiment.trainer.fit(experiment.module, ckpt_path=checkpoint)
    return experiment


def content(path):
    return torch.load(path, weights_only=True)


def kept(folder):
    return sorted(path.name for path in (folder / "checkpoints").glob("step_*.ckpt"))


def test_five_stock_callbacks_act(tiny, tmp_path):
    """Those of Lightning itself, as a user of its Trainer appends them."""
    stopping = stock.EarlyStopping("best_distance", patience=2)
    best = stock.ModelCheckpoint(
        tmp_path / "mine", monitor="given/ema", save_top_k=2, filename="{step}", auto_insert_metric_name=False
    )
    timer = stock.Timer("01:00:00:00")
    rates, throughput = stock.LearningRateMonitor(), stock.ThroughputMonitor(lambda batch: len(batch[0]), window_size=2)
    summary, device = stock.ModelSummary(), stock.DeviceStatsMonitor(cpu_stats=True)
    config = tiny({**EVERY_STEP, "logger": ["csv"], "trainer.log_every_n_steps": 1})
    values = [5.0, 4.0, 3.0, 3.5, 2.9, 3.1, 3.2, 3.3]
    fit(with_distances(config, tmp_path, values, stopping, best, timer, rates, throughput, summary, device))

    assert stopping.stopping_reason_message
    assert content(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 7
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["3.ckpt", "5.ckpt"]
    assert timer.time_elapsed("train") > timer.time_elapsed("validate") > 0
    assert len(rates.lrs["lr-AdamW"]) == 7
    with (tmp_path / "metrics.csv").open() as file:
        columns = next(csv.reader(file))
    assert {"lr-AdamW", "train/device/samples_per_sec"} <= set(columns)
    assert any(column.startswith("DeviceStatsMonitor.on_validation_batch_end") for column in columns)


class Hooks(lightning.Callback):
    """Writes down what Lightning calls, and what a callback sees at the end of a validation."""

    def __init__(self):
        self.called, self.seen = [], []

    def on_validation_start(self, trainer, pl_module):
        self.called.append(("start", trainer.global_step, pl_module.averaged.training, torch.is_grad_enabled()))

    def on_validation_end(self, trainer, pl_module):
        self.called.append(("end", trainer.global_step, trainer.validating, torch.is_grad_enabled()))
        self.seen.append({key: float(value) for key, value in trainer.callback_metrics.items()})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.called.append(("step", trainer.global_step, trainer.training, torch.is_grad_enabled()))


def test_an_evaluation_is_a_validation_that_callbacks_see(tiny, tmp_path):
    hooks = Hooks()
    experiment = fit(with_distances(tiny(EVERY_STEP | {"trainer.max_steps": 2}), tmp_path, [2.0, 3.0], hooks))
    for step in (1, 2):
        called = [item for item in hooks.called if item[1] == step]
        assert called == [("start", step, False, False), ("end", step, True, False), ("step", step, True, True)]
    assert [seen["given/ema"] for seen in hooks.seen] == [2.0, 3.0]
    assert [seen["best_distance"] for seen in hooks.seen] == [2.0, 2.0]
    assert [seen["distance"] for seen in hooks.seen] == [2.0, 3.0]
    assert [seen["heldout/loss"] for seen in hooks.seen] == pytest.approx(
        [loss for _, loss in experiment.history.heldout]
    )
    assert experiment.evaluation.keys("ema") == ("distance", "best_distance", "given/ema", "heldout/loss")


CHOSEN = {
    "callbacks": ["early_stopping", "evaluation", "checkpoints", "model_checkpoint"],
    "callbacks.early_stopping.patience": 2,
    "callbacks.model_checkpoint.save_top_k": 2,
    **EVERY_STEP,
}
VALUES = [5.0, 4.0, 4.5, 3.0, 3.5, 3.2, 1.0, 1.0]


def test_early_stopping_and_the_best_checkpoints_of_a_resumed_run_are_those_of_one_not_stopped(tiny, tmp_path):
    whole = fit(with_distances(tiny(CHOSEN), tmp_path / "whole", VALUES))
    assert whole.trainer.global_step == 6
    assert kept(tmp_path / "whole") == ["step_0000004.ckpt", "step_0000006.ckpt"]
    for step in (3, 4):
        folder = tmp_path / f"from {step}"
        fit(with_distances(tiny(CHOSEN | {"trainer.max_steps": step}), folder, VALUES))
        # The folder of a run may have moved.
        moved = folder.rename(tmp_path / f"moved {step}")
        resumed = fit(with_distances(tiny(CHOSEN), moved, VALUES), moved / "checkpoints" / "last.ckpt")
        assert resumed.trainer.global_step == 6
        assert kept(moved) == kept(tmp_path / "whole")
        one, two = (content(place / "checkpoints" / "last.ckpt") for place in (tmp_path / "whole", moved))
        for key, value in one["state_dict"].items():
            assert torch.equal(value, two["state_dict"][key])
        assert one["callbacks"]["History"]["distances"] == two["callbacks"]["History"]["distances"]


def test_a_run_goes_on_from_one_of_the_best_checkpoints(tiny, tmp_path):
    whole = fit(with_distances(tiny(CHOSEN), tmp_path, VALUES))
    again = fit(with_distances(tiny(CHOSEN), tmp_path / "again", VALUES), tmp_path / "checkpoints/step_0000004.ckpt")
    assert again.history.distances == whole.history.distances
    for key, value in whole.module.state_dict().items():
        assert torch.equal(value, again.module.state_dict()[key])


def test_a_run_that_has_lost_its_patience_trains_on_with_more(tiny, tmp_path, capsys):
    fit(with_distances(tiny(CHOSEN), tmp_path, VALUES))
    last = tmp_path / "checkpoints" / "last.ckpt"
    ended = fit(with_distances(tiny(CHOSEN), tmp_path, VALUES), last)
    assert (ended.trainer.global_step, float(ended.trainer.callback_metrics["best_distance"])) == (6, 3.0)
    result = train({**tiny(CHOSEN), "resume": str(tmp_path)}, tmp_path)
    assert result.value == 3.0
    assert "ended at step 6: Monitored metric distance did not improve" in capsys.readouterr().out
    more = fit(with_distances(tiny(CHOSEN | {"callbacks.early_stopping.patience": 3}), tmp_path, VALUES), last)
    assert more.trainer.global_step == 8


def test_a_checkpoint_cannot_have_files_removed(tiny, tmp_path):
    """Lightning removes the files that the state of its ModelCheckpoint names."""
    fit(with_distances(tiny(CHOSEN | {"trainer.max_steps": 3}), tmp_path, VALUES))
    last, precious = tmp_path / "checkpoints" / "last.ckpt", tmp_path / "precious"
    precious.write_text("mine")
    for given in (str(precious), "..", "/"):
        forged = content(last)
        (key,) = (key for key in forged["callbacks"] if key.startswith("TopCheckpoints"))
        state = forged["callbacks"][key]
        state["best_k_models"] = {given: torch.tensor(9.0), "step_0000002.ckpt": torch.tensor(4.0)}
        state["kth_best_model_path"], state["kth_value"] = given, torch.tensor(9.0)
        torch.save(forged, tmp_path / "forged.ckpt")
        with pytest.raises(ValueError, match="is no checkpoint of an evaluation"):
            fit(with_distances(tiny(CHOSEN), tmp_path, VALUES), tmp_path / "forged.ckpt")
    assert precious.read_text() == "mine"


def test_training_goes_on_where_one_of_the_best_could_not_be_written(tiny, tmp_path, monkeypatch):
    experiment = with_distances(tiny(CHOSEN), tmp_path, VALUES)
    save, failures = experiment.trainer.save_checkpoint, [OSError(28, "No space left on device")]

    def full_once(path, *given):
        if failures and Path(path).name == "step_0000004.ckpt":
            raise failures.pop()
        save(path, *given)

    monkeypatch.setattr(experiment.trainer, "save_checkpoint", full_once)
    fit(experiment)
    assert not failures
    assert kept(tmp_path) == ["step_0000005.ckpt", "step_0000006.ckpt"]


def test_training_goes_on_where_a_callback_of_lightning_cannot_log(tiny, tmp_path, monkeypatch, caplog):
    def full(path, *given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics_file, "atomic_write", full)
    changes = {"callbacks": ["learning_rate_monitor"], "logger": ["csv"], "trainer.log_every_n_steps": 1}
    assert fit(build_experiment(tiny(changes), tmp_path)).trainer.global_step == 6
    assert "No space left on device; training continues" in caplog.text


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_timer_ends_the_run_after_a_step_that_is_evaluated_and_kept(tiny, tmp_path, capsys, monkeypatch, accumulate):
    # It would end the run before its first step.
    monkeypatch.delattr(stock.Timer, "on_fit_start")
    changes = {
        "callbacks": ["evaluation", "checkpoints", "timer"],
        "callbacks.timer.duration": "00:00:00:00",
        "callbacks.evaluation.every": 5,
        "trainer.accumulate_grad_batches": accumulate,
    }
    train(tiny(changes), tmp_path)
    last = content(tmp_path / "checkpoints" / "last.ckpt")
    (distance,) = last["callbacks"]["History"]["distances"]
    assert (last["global_step"], distance[0]) == (1, 1)
    printed = capsys.readouterr().out
    assert "run of 1 steps" in printed
    assert "the time of the timer is up" in printed
    assert (tmp_path / "samples" / "trajectory.png").exists()


def test_a_validation_of_lightnings_own_evaluates_once(tiny, tmp_path):
    """As fast_dev_run and a Trainer with Lightning's defaults start, before the first step and after the last."""
    experiment = build_experiment(tiny({"trainer.max_steps": 3}), tmp_path)
    experiment.trainer.check_val_every_n_epoch, experiment.trainer.num_sanity_val_steps = 1, 2
    fit(experiment)
    assert [step for step, _ in experiment.history.distances] == [3]
    skipping = build_experiment(tiny(), tmp_path / "skipping")
    skipping.trainer.limit_val_batches = 0
    with pytest.raises(ConfigError, match="limit_val_batches"):
        fit(skipping)


def test_the_interval_of_the_trainer_counts_batches(tiny, tmp_path):
    changes = {"trainer.val_check_interval": 4, "trainer.accumulate_grad_batches": 2, "trainer.max_steps": 5}
    experiment = fit(build_experiment(tiny(changes), tmp_path))
    assert [step for step, _ in experiment.history.distances] == [2, 4, 5]
    experiment = fit(build_experiment(tiny(changes | {"trainer.val_check_interval": 100}), tmp_path / "rarely"))
    assert [step for step, _ in experiment.history.distances] == [5]
    with pytest.raises(ConfigError, match=r"val_check_interval=3 .* trainer\.accumulate_grad_batches=2"):
        fit(build_experiment(tiny(changes | {"trainer.val_check_interval": 3}), tmp_path))


def test_all_are_choices(tiny, tmp_path, capsys):
    names = ["learning_rate_monitor", "device_stats_monitor", "throughput_monitor", "model_summary", "timer"]
    changes = {
        "callbacks": [*names, "early_stopping", "model_checkpoint", "evaluation", "checkpoints"],
        "callbacks.throughput_monitor.window_size": 2,
        "callbacks.evaluation.every": 3,
        "logger": ["csv"],
        "trainer.log_every_n_steps": 1,
    }
    fit(build_experiment(tiny(changes), tmp_path))
    assert kept(tmp_path) == ["step_0000003.ckpt", "step_0000006.ckpt"]
    assert "UNet" in capsys.readouterr().out
    with (tmp_path / "metrics.csv").open() as file:
        columns = next(csv.reader(file))
    assert {"lr-AdamW", "train/device/samples_per_sec"} <= set(columns)
    assert any(column.startswith("DeviceStatsMonitor") for column in columns)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"callbacks": ["evaluation", "early_stopping"], "callbacks.early_stopping.monitor": "best_distanc"},
            r"callbacks\.early_stopping\.monitor=best_distanc .* did you mean 'best_distance'.*heldout/loss",
        ),
        ({"callbacks": ["model_checkpoint"]}, "callbacks=model_checkpoint is about evaluations"),
        ({"callbacks": [], "trainer.val_check_interval": 3}, r"trainer\.val_check_interval=3 is about evaluations"),
        ({"callbacks": ["timer"], "callbacks.timer.duration": "soon"}, r"callbacks\.timer: .*DD:HH:MM:SS"),
        *(
            ({"callbacks": [name], "logger": []}, rf"callbacks={name} .* logger=\[csv\]")
            for name in ("learning_rate_monitor", "device_stats_monitor", "throughput_monitor")
        ),
    ],
)
def test_what_cannot_act_is_refused_when_it_is_built(tiny, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        build_experiment(tiny(changes), tmp_path)
