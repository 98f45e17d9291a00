"""A program's work goes on whatever becomes of its output, and no file gets the number of a closed one."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from examples import TINY_WORDS

from diffusion_fw.app.output import Unfailing

ROOT = Path(__file__).parents[2]


def of_descriptor(number):
    return Unfailing(os.fdopen(number, "w", encoding="utf-8"))


def test_a_stream_whose_reader_is_gone_takes_everything():
    reader, writer = os.pipe()
    os.close(reader)
    stream = of_descriptor(writer)
    for _ in range(3):
        assert stream.write("text\n" * 10_000) == 50_000
        stream.flush()
    print("more", file=stream, flush=True)
    os.write(writer, b"past the stream")


def test_a_full_disk_loses_what_is_written_while_it_is_full():
    stream = of_descriptor(os.open("/dev/full", os.O_WRONLY))
    for _ in range(3):
        print("text", file=stream, flush=True)
    assert str(Path(f"/proc/self/fd/{stream.fileno()}").readlink()) == "/dev/full"


def test_a_closed_stream_takes_everything_and_a_sound_one_loses_nothing():
    closed = io.StringIO()
    closed.close()
    print("text", file=Unfailing(closed), flush=True)
    sound = io.StringIO()
    print("a", "b", file=Unfailing(sound), flush=True)
    Unfailing(sound).writelines(["c\n", "d\n"])
    assert sound.getvalue() == "a b\nc\nd\n"
    assert Unfailing(sys.__stdout__).encoding == sys.__stdout__.encoding


TRAIN = [sys.executable, str(ROOT / "train.py"), *TINY_WORDS]


def shell(command, folder):
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("redirected", ["2>&1 | head -1", "> /dev/full 2>&1", "<&- >&- 2>&-"])
def test_training_sampling_and_evaluating_go_on_without_their_output(tmp_path, redirected):
    programs = [
        f"{' '.join(TRAIN)} trainer.max_steps=4 hydra.run.dir=run",
        *(
            f"{sys.executable} {ROOT}/{name}.py checkpoint=run/checkpoints/last.ckpt device=cpu sampler.steps=2 {more}"
            for name, more in (("sample", "num_samples=4"), ("evaluate", "metric.num_samples=8"))
        ),
    ]
    for program in programs if "full 2>&1" in redirected else programs[:1]:
        done = shell(f"{program} {redirected}; exit ${{PIPESTATUS[0]}}", tmp_path)
        assert done.returncode == 0, done.stderr
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    if "full 2>&1" in redirected:
        assert len(list(tmp_path.rglob("evaluation.json"))) == len(list(tmp_path.rglob("samples.npz"))) == 1


def test_an_error_is_an_exit_code_although_it_cannot_be_said(tmp_path):
    assert shell(f"{' '.join(TRAIN)} sampler=nothing > /dev/full 2>&1", tmp_path).returncode == 1


def wait_for(path, process):
    for _ in range(600):
        if path.exists():
            return
        assert process.poll() is None
        time.sleep(0.1)
    raise AssertionError(f"no {path}")


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_ends_a_run_with_a_checkpoint_unless_it_was_started_to_outlive_it(tmp_path, ignored):
    """The terminal is closed, so that writing to it fails, and SIGHUP is sent, as the system does."""
    master, slave = pty.openpty()
    steps = "trainer.max_steps=40" if ignored else "trainer.max_steps=1000000"
    command = [
        *TRAIN,
        steps,
        "callbacks.checkpoints.every=10",
        "hydra.run.dir=run",
        "callbacks.evaluation.every=100000",
    ]
    process = subprocess.Popen(
        ["nohup", *command] if ignored else command,
        cwd=tmp_path,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        # The tests themselves may have been started by nohup.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    os.close(slave)
    wait_for(tmp_path / "run/.run.lock" if ignored else tmp_path / "run/checkpoints/last.ckpt", process)
    os.close(master)
    process.send_signal(signal.SIGHUP)
    assert process.wait(120) == (0 if ignored else 129)
    step = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert step == 40 if ignored else step % 10 or step > 10
