"""Training runs: what is repeated, resumed, accumulated or shared between processes is the same run."""

from __future__ import annotations

import csv
import math

import lightning
import pytest
import torch

from diffusion_fw.app.train import train
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.composition.facts import Facts
from diffusion_fw.composition.parts import build_wrappers
from diffusion_fw.data.dataset import to_model, to_pixels
from diffusion_fw.metrics.metric import TrackedMetric
from diffusion_fw.sampling.draw import draw
from diffusion_fw.training.ema import Exponential


def fit(config, folder, *callbacks, checkpoint=None):
    experiment = build_experiment(config, folder)
    experiment.trainer.callbacks.extend(callbacks)
    experiment.trainer.fit(experiment.module, ckpt_path=checkpoint)
    return experiment


def weights(experiment):
    return {key: value.clone() for key, value in experiment.module.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def losses(experiment):
    return [(record["step"], record["loss"], record["gradient_norm"]) for record in experiment.history.records]


class Watch(lightning.Callback):
    """Keeps what each step saw and made: examples, gradients before clipping, weights."""

    def __init__(self):
        self.examples, self.gradient_norms, self.trained = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.examples.append(to_model(batch[0]))

    def on_after_backward(self, trainer, pl_module):
        gradients = [item.grad.double().square().sum() for item in pl_module.denoiser.parameters()]
        self.gradient_norms.append(math.sqrt(float(sum(gradients))))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.trained.append({key: value.clone() for key, value in pl_module.denoiser.state_dict().items()})


class Keep(lightning.Callback):
    """Writes a checkpoint when a step has ended, as if the run had been stopped there."""

    def __init__(self, step, folder):
        self.step, self.path = step, folder / "stopped.ckpt"

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """One run of seven steps, with all that it showed, and a checkpoint in the middle of an interval."""
    folder = tmp_path_factory.mktemp("whole")
    watch, keep = Watch(), Keep(5, folder)
    config = tiny({"trainer.max_steps": 7, "network.dropout": 0.2, "network.class_conditional": True})
    experiment = fit(config, folder, watch, keep)
    return config, experiment, watch, keep.path


def test_the_same_seed_gives_the_same_weights_to_the_bit(whole, tmp_path):
    config, experiment, _, _ = whole
    again = fit(config, tmp_path)
    assert_same(weights(experiment), weights(again))
    assert losses(experiment) == losses(again)
    assert experiment.history.distances == again.history.distances


def test_another_seed_gives_other_weights(whole, tmp_path):
    config, experiment, _, _ = whole
    other = fit({**config, "seed": 1}, tmp_path)
    assert any(not torch.equal(value, weights(other)[key]) for key, value in weights(experiment).items())


def test_a_resumed_run_equals_one_that_was_not_stopped(whole, tmp_path):
    config, experiment, _, checkpoint = whole
    resumed = fit(config, tmp_path, checkpoint=checkpoint)
    assert_same(weights(experiment), weights(resumed))
    assert losses(experiment) == losses(resumed)
    assert experiment.history.distances == resumed.history.distances
    assert experiment.history.heldout == resumed.history.heldout


def test_a_finished_run_can_be_continued(tiny, whole, tmp_path):
    config, experiment, _, _ = whole
    short = {**config, "trainer": {**config["trainer"], "max_steps": 3}}
    fit(short, tmp_path)
    longer = fit(config, tmp_path / "longer", checkpoint=tmp_path / "checkpoints" / "last.ckpt")
    assert_same(weights(experiment), weights(longer))
    assert experiment.history.distances == longer.history.distances


def test_the_average_is_the_recursion_over_the_trained_weights(whole, tmp_path):
    """theta_ema <- d theta_ema + (1 - d) theta after steps n = 1, 2, ..., d = min(0.9999, (1 + n) / (10 + n))."""
    config, experiment, watch, _ = whole
    key = "network.enter.weight"
    start = build_experiment(config, tmp_path).denoiser.state_dict()[key].double()
    average = start
    for n, trained in enumerate(watch.trained, start=1):
        decay = (1 + n) / (10 + n)
        average = decay * average + (1 - decay) * trained[key].double()
    result = experiment.module.averaged.state_dict()[key].double()
    assert torch.allclose(result, average, rtol=1e-5, atol=1e-8)
    assert not torch.allclose(result, watch.trained[-1][key].double(), rtol=1e-5)


def test_decay_warms_up_and_stays_at_its_rate():
    average = Exponential(rate=0.9)
    assert average.decay(1) == 2 / 11
    assert average.decay(80) == 81 / 90
    assert average.decay(1000) == 0.9
    assert Exponential(rate=0.9, warmup=False).decay(1) == 0.9


def test_the_averaged_network_is_never_in_training_mode(whole):
    """Its samples would otherwise be drawn with dropout."""
    _, experiment, _, _ = whole
    assert not any(layer.training for layer in experiment.module.averaged.modules())
    assert experiment.module.denoiser.network.training


@pytest.mark.parametrize("limit", [1e-3, 0.0])
def test_the_gradient_norm_on_record_is_that_before_clipping(tiny, tmp_path, limit):
    watch = Watch()
    config = tiny({"trainer.max_steps": 3, "trainer.log_every_n_steps": 1, "trainer.gradient_clip_val": limit})
    experiment = fit(config, tmp_path, watch)
    recorded = [record["gradient_norm"] for record in experiment.history.records]
    assert recorded == pytest.approx(watch.gradient_norms, rel=1e-5)


def test_clipping_bounds_the_step(tiny, tmp_path):
    """A step of plain gradient descent is at most rate times the limit long."""
    changes = {
        "optimizer": "sgd",
        "optimizer.lr": 1.0,
        "optimizer.momentum": 0.0,
        "trainer.max_steps": 2,
        "trainer.gradient_clip_val": 1e-3,
    }
    watch = Watch()
    fit(tiny({**changes, "lr_schedule.warmup_steps": 0}), tmp_path, watch)
    first, second = watch.trained
    length = math.sqrt(sum(float((second[key] - first[key]).double().square().sum()) for key in first))
    assert watch.gradient_norms[1] > 1e-2
    assert 0 < length <= 1e-3 * 1.0001


def test_accumulation_sees_the_images_of_the_whole_batch(tiny, tmp_path):
    one, two = Watch(), Watch()
    fit(tiny({"trainer.max_steps": 3}), tmp_path / "one", one)
    experiment = fit(tiny({"trainer.max_steps": 3, "trainer.accumulate_grad_batches": 2}), tmp_path / "two", two)
    assert [len(part) for part in two.examples] == [4] * 6
    assert torch.equal(torch.cat(one.examples), torch.cat(two.examples))
    assert experiment.trainer.global_step == 3


def test_an_accumulating_run_resumes_where_it_was(tiny, tmp_path):
    changes = {"trainer.accumulate_grad_batches": 2}
    experiment = fit(tiny(changes), tmp_path / "whole")
    fit(tiny({**changes, "trainer.max_steps": 3}), tmp_path / "short")
    resumed = fit(tiny(changes), tmp_path / "resumed", checkpoint=tmp_path / "short" / "checkpoints" / "last.ckpt")
    assert_same(weights(experiment), weights(resumed))
    assert losses(experiment) == losses(resumed)
    assert [step for step, _ in resumed.history.distances] == [3, 6]


def distances_given(values):
    """A metric whose distances are given."""

    class Given(TrackedMetric):
        num_samples = 8
        remaining = list(values)

        def name(self, weights):
            return f"given/{weights}"

        def reset(self):
            pass

        def update(self, generated):
            pass

        def compute(self):
            return self.remaining.pop(0)

        def floor(self):
            return 0.0

    return Given()


def evaluated_at_every_step(tiny, folder, values, order=("evaluation", "checkpoints")):
    changes = {
        "callbacks": list(order),
        "callbacks.evaluation.every": 1,
        "callbacks.checkpoints.every": 100,
        "trainer.max_steps": 3,
    }
    experiment = build_experiment(tiny(changes), folder)
    experiment.evaluation.metric = distances_given(values)
    return experiment


@pytest.mark.parametrize(("values", "best"), [([3.0, 1.0, 2.0], 2), ([math.nan, 2.0, 3.0], 2), ([2.0, 1.0, 0.5], 3)])
@pytest.mark.parametrize("order", [["evaluation", "checkpoints"], ["checkpoints", "evaluation"]])
def test_best_is_the_checkpoint_of_the_smallest_distance(tiny, tmp_path, values, best, order):
    experiment = evaluated_at_every_step(tiny, tmp_path, values, order)
    experiment.trainer.fit(experiment.module)
    read = {name: torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last")}
    assert read["best"]["global_step"] == best
    assert read["last"]["global_step"] == 3


def test_where_the_best_could_not_be_written_the_best_of_those_after_it_is(tiny, tmp_path, monkeypatch):
    experiment = evaluated_at_every_step(tiny, tmp_path, [1.0, 3.0, 2.0])
    save, failures = experiment.trainer.save_checkpoint, [OSError(28, "No space left on device")]

    def full_at_first(path, **how):
        if failures and path.name == "best.ckpt":
            raise failures.pop()
        save(path, **how)

    monkeypatch.setattr(experiment.trainer, "save_checkpoint", full_at_first)
    experiment.trainer.fit(experiment.module)
    assert torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == 3


def test_metrics_csv_has_a_column_for_each_number(tiny, tmp_path):
    experiment = fit(tiny({"logger": ["csv"]}), tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    at_levels = [column for column in rows[0] if column.startswith("heldout/loss at log-SNR")]
    means = [float(rows[-1][column]) for column in at_levels]
    assert sum(means) / len(means) == pytest.approx(float(rows[-1]["heldout/loss"]), rel=0.05)
    assert set(rows[0]) - set(at_levels) == {
        "step",
        "train/loss",
        "train/gradient_norm",
        "train/lr",
        "train/images_per_second",
        "fid/pixels@8/ema",
        "heldout/loss",
    }
    written = [(int(row["step"]), float(row["train/loss"])) for row in rows if row["train/loss"]]
    assert written == [(record["step"], record["loss"]) for record in experiment.history.records]
    measured = [[int(row["step"]), float(row["fid/pixels@8/ema"])] for row in rows if row["fid/pixels@8/ema"]]
    assert measured == experiment.history.distances


@pytest.mark.parametrize(("ema", "weights"), [("none", "raw"), ("exponential", "ema")])
def test_one_name_for_the_weights_in_the_log_the_table_and_the_result(tiny, tmp_path, capsys, ema, weights):
    """Also where a finished run is resumed, and nothing is built."""
    config = tiny({"ema": ema, "logger": ["csv"], "trainer.max_steps": 3})
    name = f"fid/pixels@8/{weights}"
    assert train(config, tmp_path).name == name
    assert f"{name} at step 3" in capsys.readouterr().out
    with (tmp_path / "metrics.csv").open() as file:
        assert [column for column in next(csv.reader(file)) if column.startswith("fid/")] == [name]
    assert train({**config, "resume": str(tmp_path)}, tmp_path).name == name


def test_two_processes_train_the_run_of_one(tiny, tmp_path):
    """Same losses, same number of images, and one distance, which is that of the same weights in one process."""
    changes = {"logger": ["csv"], "trainer.log_every_n_steps": 1, "trainer.max_steps": 3}
    fit(tiny(changes), tmp_path / "one")
    fit(tiny({**changes, "trainer.devices": 2, "trainer.strategy": "ddp_fork"}), tmp_path / "two")
    files = {
        name: torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("one", "two")
    }
    for key, value in files["one"]["state_dict"].items():
        assert torch.allclose(value, files["two"]["state_dict"][key], rtol=1e-4, atol=1e-5), key
    one, two = (file["callbacks"]["History"] for file in files.values())
    assert len(two["records"]) == 3
    for name in ("loss", "gradient_norm"):
        assert [item[name] for item in two["records"]] == pytest.approx([item[name] for item in one["records"]], 1e-5)

    experiment = build_experiment(tiny(changes), tmp_path / "again")
    experiment.module.load_state_dict(files["two"]["state_dict"])
    denoiser = build_wrappers(tiny(), Facts.of(experiment.data, tiny()), conditional=True)(experiment.module.averaged)
    experiment.metric.reset()
    counts = experiment.data.class_counts
    for _, x in draw(experiment.sampler, denoiser, experiment.data.shape, range(8), seed=0, class_counts=counts):
        experiment.metric.update(to_pixels(x))
    assert two["distances"] == [[3, pytest.approx(experiment.metric.compute(), rel=1e-9)]]
