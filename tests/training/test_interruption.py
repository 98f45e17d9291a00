"""A signal to the process that forked the others ends them all as it would end one: a checkpoint, the signal's code."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time

import lightning
import pytest
import torch

from diffusion_fw.app.train import train
from diffusion_fw.composition import experiment as composition
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.training.callbacks.checkpointing import Checkpoints
from diffusion_fw.training.callbacks.interruption import AGREE_EVERY, Interruption
from diffusion_fw.training.signals import Interrupted, passed_on_to_children

FORKED = {"trainer.devices": 2, "trainer.strategy": "ddp_fork", "trainer.max_steps": 2 * AGREE_EVERY}
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def unhandled():
    """Without handlers of its own a run would take the tests with it."""

    def fail(number, frame):
        raise AssertionError(f"signal {number} found no handler")

    before = {number: signal.signal(number, fail) for number in SIGNALS}
    yield
    for number, handler in before.items():
        assert signal.signal(number, handler) is fail


class Signal(lightning.Callback):
    """Sent in a step by the first process: to the one that forked it, as `kill` does, or to all, as Ctrl-C does."""

    def __init__(self, number, everyone):
        self.number, self.everyone = number, everyone

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step + 1 == 3 and (self.everyone or trainer.is_global_zero):
            os.kill(os.getpid() if self.everyone else os.getppid(), self.number)
            if self.everyone and trainer.is_global_zero:
                os.kill(os.getppid(), self.number)


@pytest.mark.parametrize(
    ("number", "everyone"),
    [(signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGHUP, False)],
)
def test_forked_processes_end_with_a_checkpoint_and_the_code_of_one(tiny, tmp_path, monkeypatch, number, everyone):
    def with_signal(*args):
        experiment = build_experiment(*args)
        experiment.trainer.callbacks.insert(0, Signal(number, everyone))
        return experiment

    monkeypatch.setattr(composition, "build_experiment", with_signal)
    config = tiny({**FORKED, "callbacks": ["checkpoints"], "callbacks.checkpoints.every": 1000, "logger": ["wandb"]})
    config["logger"]["wandb"]["mode"] = "offline"
    with pytest.raises(Interrupted) as ended:
        train(config, tmp_path)
    assert ended.value.code == 128 + number
    assert multiprocessing.active_children() == []
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == AGREE_EVERY
    (record,) = (tmp_path / "wandb").rglob("*.wandb")
    assert b"train/loss" in record.read_bytes()


def test_a_signal_to_a_forked_process_is_the_exit_code_of_the_run(tiny, tmp_path, monkeypatch):
    class OfItself(lightning.Callback):
        def on_after_backward(self, trainer, pl_module):
            if trainer.global_rank == 1 and trainer.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    def with_signal(*args):
        experiment = build_experiment(*args)
        experiment.trainer.callbacks.insert(0, OfItself())
        return experiment

    monkeypatch.setattr(composition, "build_experiment", with_signal)
    with pytest.raises(Interrupted) as ended:
        train(tiny({**FORKED, "callbacks": ["checkpoints"]}), tmp_path)
    assert ended.value.code == 143
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


class Kill(lightning.Callback):
    def __init__(self, *numbers):
        self.numbers = numbers

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == 2:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("numbers", "decides", "reached"),
    [
        ([signal.SIGTERM], signal.SIGTERM, 6),
        ([signal.SIGUSR2], signal.SIGUSR2, 3),
        ([signal.SIGUSR2, signal.SIGTERM], signal.SIGUSR2, 3),
    ],
    ids=str,
)
def test_a_program_around_a_run_decides_once_the_checkpoint_is_written(tiny, tmp_path, numbers, decides, reached):
    """As submitit does: its SIGTERM goes by, its SIGUSR2 sends the job again and ends the process."""
    seen = []

    def around(number, frame):
        seen.append((number, torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]))
        if number == signal.SIGUSR2:
            raise SystemExit(-1)

    before = {number: signal.signal(number, around) for number in (signal.SIGTERM, signal.SIGUSR2)}
    experiment = build_experiment(tiny({"callbacks.checkpoints.every": 1000}), tmp_path)
    checkpoints = next(item for item in experiment.trainer.callbacks if isinstance(item, Checkpoints))
    experiment.trainer.callbacks.extend([Kill(*numbers), Interruption(checkpoints)])
    with contextlib.suppress(SystemExit):
        experiment.trainer.fit(experiment.module)
    for number, handler in before.items():
        assert signal.signal(number, handler) is around
    assert seen == [(decides, 3)]
    assert experiment.trainer.global_step == reached


def started(work):
    """A forked process that has begun its work."""
    context = multiprocessing.get_context("fork")
    begun = context.Event()

    def run():
        begun.set()
        work()

    child = context.Process(target=run)
    child.start()
    assert begun.wait(10)
    return child


@pytest.mark.parametrize("number", SIGNALS)
def test_a_forked_process_that_does_not_train_yet_ends_at_once(number):
    with passed_on_to_children():
        child = started(lambda: time.sleep(60))
        with pytest.raises(Interrupted) as ended:
            os.kill(os.getpid(), number)
    assert ended.value.code == 128 + number
    assert child.exitcode == -signal.SIGTERM


def test_an_error_of_a_process_that_was_to_end_is_left_to_who_waits_for_it():
    def fails():
        signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
        time.sleep(60)

    with passed_on_to_children():
        child = started(fails)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert child.exitcode == 1
