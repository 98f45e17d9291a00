"""A bad step is caught where it happens, named, left out, and what was there before is kept to the bit."""

from __future__ import annotations

import re

import lightning
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from diffusion_fw import registry
from diffusion_fw.app.train import errors_of_children
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.training.callbacks.health import NumericalError
from diffusion_fw.training.stream import ShuffledBatches

NAN, INF = float("nan"), float("inf")
BATCH = 8


class Spoiler(lightning.Callback):
    """At chosen micro-batches, multiplies the loss of the examples in chosen rows (of this process) by a factor."""

    def __init__(self, batches, factor, rows=(1, 6)):
        self.batches, self.factor, self.rows = batches, factor, rows

    def on_train_start(self, trainer, pl_module):
        self.objective, self.module = pl_module.objective, pl_module
        pl_module.objective = self

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.number = (
            trainer.global_step * trainer.accumulate_grad_batches + batch_idx % trainer.accumulate_grad_batches
        )

    def __call__(self, denoiser, x0, level, eps, cond=None):
        loss = self.objective(denoiser, x0, level, eps, cond)
        if self.number not in self.batches or not torch.is_grad_enabled():
            return loss
        factor = torch.ones_like(loss)
        factor[list(self.rows)] = self.factor
        return loss * factor


class Watch(lightning.Callback):
    """The state after each step: weights, averages and the optimizer's."""

    def __init__(self):
        self.states, self.rates = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        optimizer = trainer.optimizers[0]
        inner = {f"{i} {key}": value for i, item in optimizer.state.items() for key, value in item.items()}
        tensors = {**dict(pl_module.denoiser.named_parameters()), **inner}
        self.states.append({key: value.detach().clone() for key, value in tensors.items() if torch.is_tensor(value)})
        self.rates.append(optimizer.param_groups[0]["lr"])


def fit(config, folder, *callbacks, checkpoint=None, change=lambda experiment: None):
    experiment = build_experiment(config, folder)
    change(experiment)
    experiment.trainer.callbacks[:0] = callbacks
    experiment.trainer.fit(experiment.module, ckpt_path=checkpoint)
    return experiment


def health_of(experiment):
    return next(item for item in experiment.trainer.callbacks if type(item).__name__ == "Health")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def finite(state):
    return all(bool(value.isfinite().all()) for value in state.values())


HEALTH = {"callbacks": ["health", "checkpoints"], "batch_size": BATCH, "callbacks.checkpoints.every": 2}


def indices(step):
    return next(iter(ShuffledBatches(1438, BATCH, 0, start=step - 1, stop=step)))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("factor", [NAN, INF])
def test_stop_names_step_examples_times_and_layers_and_keeps_what_was_before(tiny, tmp_path, optimizer, factor):
    """adamw is fused and is told on the device, sgd is not and loses its gradients."""
    watch = Watch()
    config = tiny({**HEALTH, "optimizer": optimizer, "optimizer.lr": 1e-3})
    with pytest.raises(NumericalError) as raised:
        fit(config, tmp_path, watch, Spoiler({3}, factor))
    message = str(raised.value)
    assert message.startswith("step 4 is bad: its loss ")
    assert "\n" not in message
    expected = [indices(4)[row] for row in (1, 6)]
    found = re.findall(
        r"(\d+) \(position (\d+) of the stream\): t=([\d.e-]+), log-SNR=([\d.e+-]+), loss=(nan|inf)", message
    )
    assert [int(item[0]) for item in found] == expected
    assert [int(item[1]) for item in found] == [3 * BATCH + 1, 3 * BATCH + 6]
    assert "(2 of 8)" in message
    assert "gradients not finite: denoiser.network." in message
    assert "callbacks.health.action=skip" in message
    before, after = watch.states[-2:]
    assert same(before, after)
    assert finite(after)
    kept = torch.load(tmp_path / "checkpoints" / "last_good.ckpt", weights_only=True)
    for key, value in before.items():
        if key in kept["state_dict"]:
            assert torch.equal(kept["state_dict"][f"denoiser.{key}"], value)
    whole = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert whole["global_step"] == 2


def test_the_times_named_are_those_of_the_step(tiny, tmp_path):
    seen = []

    class Times(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(pl_module.draws[0][0])

    with pytest.raises(NumericalError) as raised:
        fit(tiny(HEALTH), tmp_path, Times(), Spoiler({2}, NAN, rows=(5,)))
    t = float(seen[2][5])
    level = registry.build("schedule", "cosine")(torch.tensor(t, dtype=torch.float64))
    assert f"t={t:.6g}, log-SNR={float(level.log_snr):.4g}, loss=nan" in str(raised.value)


def test_the_last_good_state_is_what_a_resumed_run_goes_on_from(tiny, tmp_path):
    """It counts the bad step as skipped, so that it equals a run told to skip it."""
    with pytest.raises(NumericalError, match="last_good"):
        fit(tiny(HEALTH), tmp_path / "stopped", Spoiler({3}, NAN))
    checkpoint = tmp_path / "stopped" / "checkpoints" / "last_good.ckpt"
    resumed = fit(tiny(HEALTH), tmp_path / "resumed", checkpoint=checkpoint)
    skipped = fit(tiny({**HEALTH, "callbacks.health.action": "skip"}), tmp_path / "skipped", Spoiler({3}, NAN))
    assert resumed.trainer.global_step == 6
    assert same(resumed.module.state_dict(), skipped.module.state_dict())


def test_a_run_resumed_from_the_last_checkpoint_meets_the_same_step_again(tiny, tmp_path):
    with pytest.raises(NumericalError):
        fit(tiny(HEALTH), tmp_path, Spoiler({3}, NAN))
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(NumericalError, match="step 4 is bad"):
        fit(tiny(HEALTH), tmp_path / "again", Spoiler({3}, NAN), checkpoint=checkpoint)
    config = tiny({**HEALTH, "callbacks.health.action": "skip"})
    resumed = fit(config, tmp_path / "other", Spoiler({3}, NAN), checkpoint=checkpoint)
    whole = fit(config, tmp_path / "whole", Spoiler({3}, NAN))
    assert same(resumed.module.state_dict(), whole.module.state_dict())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_skip_leaves_the_step_out_and_goes_on(tiny, tmp_path, optimizer, caplog):
    watch = Watch()
    config = tiny({**HEALTH, "callbacks.health.action": "skip", "optimizer": optimizer, "logger": ["csv"]})
    experiment = fit(config, tmp_path, watch, Spoiler({2, 3}, NAN))
    assert experiment.trainer.global_step == 6
    assert same(watch.states[1], watch.states[3])
    assert not same(watch.states[3], watch.states[4])
    assert finite(experiment.module.state_dict())
    assert health_of(experiment).skipped == 2
    assert [record.message[:11] for record in caplog.records if "is bad" in record.message] == [
        "step 3 is b",
        "step 4 is b",
    ]
    assert "health/skipped" in (tmp_path / "metrics.csv").read_text()


def test_a_healthy_run_is_the_same_with_and_without_the_watch(tiny, tmp_path):
    config = tiny(HEALTH)
    with_it = fit(config, tmp_path / "with")
    without = fit(tiny({**HEALTH, "callbacks": ["checkpoints"]}), tmp_path / "without")
    assert same(with_it.module.state_dict(), without.module.state_dict())
    assert health_of(with_it).skipped == 0


def test_lower_rate_lowers_it_for_good_and_in_a_resumed_run(tiny, tmp_path):
    """lr_schedule=constant without warmup: the rate is its own before the bad step, half of it ever after."""
    changes = {**HEALTH, "callbacks.health.action": "lower_rate", "lr_schedule.warmup_steps": 0, "optimizer.lr": 1e-3}
    watch = Watch()
    experiment = fit(tiny(changes), tmp_path, watch, Spoiler({2}, NAN))
    assert watch.rates[:2] == [1e-3, 1e-3]
    assert watch.rates[3:] == [5e-4] * 3
    assert finite(experiment.module.state_dict())
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    longer = Watch()
    resumed = fit(tiny({**changes, "trainer.max_steps": 8}), tmp_path / "longer", longer, checkpoint=checkpoint)
    assert longer.rates == [5e-4] * 2
    assert health_of(resumed).lowered == 1


def test_lower_rate_ends_after_its_number_of_times(tiny, tmp_path):
    changes = {**HEALTH, "callbacks.health.action": "lower_rate", "callbacks.health.most_times": 2}
    with pytest.raises(NumericalError, match=r"step 5 is bad.*callbacks\.health\.most_times=2 times"):
        fit(tiny(changes), tmp_path, Spoiler({0, 2, 4}, NAN))


def test_skip_ends_when_no_step_is_good_any_more(tiny, tmp_path):
    changes = {**HEALTH, "callbacks.health.action": "skip", "callbacks.health.in_a_row": 3}
    with pytest.raises(NumericalError, match=r"step 5 is bad.*follows callbacks\.health\.in_a_row=3 other bad steps"):
        fit(tiny(changes), tmp_path, Spoiler(range(1, 6), NAN))


def test_weights_that_are_spoiled_already_are_said_to_be(tiny, tmp_path):
    class Break(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 2:
                pl_module.denoiser.network.enter.bias.data[0] = NAN

    with pytest.raises(NumericalError, match=r"state itself is not finite \(denoiser\.network\.enter\.bias, "):
        fit(tiny(HEALTH), tmp_path, Break())
    assert not (tmp_path / "checkpoints" / "last_good.ckpt").exists()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"callbacks.health.gradient_multiple": 1e9, "callbacks.health.loss_multiple": 50.0}, "its loss"),
        ({"callbacks.health.gradient_multiple": 50.0, "callbacks.health.loss_multiple": 1e9}, "its gradient norm"),
    ],
)
def test_a_loss_or_gradient_far_above_its_median_is_an_explosion(tiny, tmp_path, changes, word):
    watch = Watch()
    with pytest.raises(
        NumericalError, match=rf"step 6 is bad: {word} \S+ is above .*examples of the largest losses"
    ) as e:
        fit(tiny({**HEALTH, "callbacks.health.window": 4, **changes}), tmp_path, watch, Spoiler({5}, 1e4))
    first = re.search(r"largest losses: (\d+) \(", str(e.value))
    assert int(first[1]) in [indices(6)[row] for row in (1, 6)]
    assert same(*watch.states[-2:])


def test_nothing_explodes_before_half_of_the_window_is_there(tiny, tmp_path):
    config = tiny({**HEALTH, "callbacks.health.window": 100, "callbacks.health.loss_multiple": 2.0})
    assert fit(config, tmp_path, Spoiler({2}, 1e4)).trainer.global_step == 6


def test_a_bad_step_does_not_move_the_median(tiny, tmp_path):
    config = tiny({**HEALTH, "callbacks.health.action": "skip", "callbacks.health.window": 3})
    health = health_of(fit(config, tmp_path, Spoiler({3, 5}, INF)))
    assert bool(health._good.isfinite().all())


def test_accumulated_batches_are_named_in_the_order_of_the_stream(tiny, tmp_path):
    """The second of two micro-batches is bad: micro-batch 7 of 4 examples is the second half of step 4."""
    watch = Watch()
    with pytest.raises(NumericalError, match="step 4 is bad") as raised:
        fit(tiny({**HEALTH, "trainer.accumulate_grad_batches": 2}), tmp_path, watch, Spoiler({7}, NAN, rows=(2,)))
    assert f"{indices(4)[6]} (position {3 * BATCH + 6} of the stream)" in str(raised.value)
    assert "(1 of 8)" in str(raised.value)
    assert same(watch.states[5], watch.states[7])


def test_two_processes_decide_alike(tiny, tmp_path):
    """One process's example is bad: row 2 of process 1 is row 5 of the global batch."""

    class InOne(Spoiler):
        def on_train_start(self, trainer, pl_module):
            if trainer.global_rank == 1:
                super().on_train_start(trainer, pl_module)

    changes = {**HEALTH, "callbacks.health.action": "skip", "logger": ["csv"]}
    fit(
        tiny({**changes, "trainer.devices": 2, "trainer.strategy": "ddp_fork"}), tmp_path / "two", InOne({3}, NAN, (2,))
    )
    fit(tiny(changes), tmp_path / "one", Spoiler({3}, NAN, rows=(5,)))
    one, two = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    )
    for key, value in one.items():
        assert torch.allclose(value, two[key], rtol=1e-4, atol=1e-5), key
    message = rf"^step 4 is bad.* {indices(4)[5]} \(position {3 * BATCH + 5} of the stream\).*last_good\.ckpt$"
    with pytest.raises(NumericalError, match=message), errors_of_children():
        fit(
            tiny({**HEALTH, "trainer.devices": 2, "trainer.strategy": "ddp_fork"}),
            tmp_path / "stop",
            InOne({3}, NAN, (2,)),
        )


def test_a_device_that_runs_ahead_leaves_out_every_step_after_the_bad_one(tiny, tmp_path, monkeypatch):
    """On a GPU the verdict is read one step late: the step taken meanwhile must not count either."""
    judge = "diffusion_fw.training.callbacks.health.Health._judge"
    from diffusion_fw.training.callbacks.health import Health

    immediately = Health._judge
    monkeypatch.setattr(judge, lambda self, trainer, module, behind: immediately(self, trainer, module, behind=1))
    watch = Watch()
    with pytest.raises(NumericalError, match="step 4 is bad"):
        fit(tiny(HEALTH), tmp_path, watch, Spoiler({3}, NAN))
    assert len(watch.states) == 5
    assert same(watch.states[2], watch.states[4])


def with_scaler(experiment):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    experiment.trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)


class Overflow(lightning.Callback):
    """The gradient of a step overflows, as it does in 16 bits while the scale is too large; its loss does not."""

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == 2:
            pl_module.denoiser.network.enter.bias.grad[0] = INF


def test_what_a_loss_scaler_skips_by_itself_does_not_count(tiny, tmp_path):
    watch = Watch()
    experiment = fit(tiny(HEALTH), tmp_path, watch, Overflow(), change=with_scaler)
    assert health_of(experiment).skipped == 0
    assert same(watch.states[1], watch.states[2])
    assert finite(experiment.module.state_dict())


def test_a_loss_that_is_not_finite_counts_under_a_loss_scaler(tiny, tmp_path):
    with pytest.raises(NumericalError, match="step 4 is bad: its loss nan"):
        fit(tiny(HEALTH), tmp_path, Spoiler({3}, NAN), change=with_scaler)


def test_under_a_loss_scaler_the_norm_is_that_of_the_gradients_without_the_scale(tiny, tmp_path):
    """Clipping at a limit would otherwise clip everything."""
    changes = {**HEALTH, "trainer.max_steps": 1, "trainer.log_every_n_steps": 1}
    plain = fit(tiny(changes), tmp_path / "plain").history.records[0]["gradient_norm"]
    scaled = fit(tiny(changes), tmp_path / "scaled", change=with_scaler).history.records[0]["gradient_norm"]
    assert scaled == pytest.approx(plain, rel=0.05)


def test_losses_that_are_not_finite_stay_out_of_the_learned_times(tiny, tmp_path):
    changes = {**HEALTH, "callbacks.health.action": "skip", "time_sampler": "loss_aware", "time_sampler.history": 1}
    small = {"schedule.num_steps": 4}
    experiment = fit(tiny({**changes, **small}), tmp_path, Spoiler({2}, NAN, rows=tuple(range(BATCH))))
    assert bool(experiment.module.time_sampler.probabilities().isfinite().all())
    assert experiment.trainer.global_step == 6
