"""The device kit: what fails is reported and stops nothing else; differences and waits are seen; results are kept."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import warnings

import lightning
import pytest
import torch

from benchmarks.device import __main__ as kit
from benchmarks.device.card import ROOT, seconds_per_call
from benchmarks.device.command import PLUGINS, FailedError, run
from benchmarks.device.ddpm import DDPM, SHAPE, Timed, parameters
from benchmarks.device.options import Options
from benchmarks.device.record import Record
from benchmarks.device.stages import correctness, default, likelihood, programs
from benchmarks.device.syncs import MESSAGE, Syncs
from diffusion_fw.composition.experiment import build_experiment


def rows(path):
    return json.loads(path.read_text())["rows"]


def test_a_failing_row_is_kept_with_its_traceback_and_the_next_is_measured(tmp_path):
    record = Record(tmp_path / "stage.json", "stage", seconds=60)
    record.measure("bad", lambda: 1 / 0)
    assert rows(record.path)[0]["text"] == "ZeroDivisionError: division by zero"
    record.measure("good", lambda value: {"text": value, "ok": True}, "fine")
    record.measure("late", lambda: {}, needs=1000)
    bad, good, late = rows(record.path)
    assert bad["ok"] is False
    assert "1 / 0" in "".join(bad["traceback"])
    assert good["ok"] is True
    assert good["text"] == "fine"
    assert late["ok"] is None
    assert late["text"].startswith("left out")


def test_a_number_says_on_what_it_was_measured(tmp_path):
    record = Record(tmp_path / "stage.json", "stage", seconds=60)
    content = json.loads(record.path.read_text())
    assert content["torch"] == torch.__version__
    assert {"card", "driver", "date", "commit", "command"} <= content.keys()
    assert content["finished"] is False


@pytest.mark.parametrize(
    ("code", "said", "budget"), [("import os; os._exit(3)", "exit code 3", 120), ("while True: pass", "stopped", 20)]
)
def test_a_stage_that_dies_or_hangs_is_a_row_and_the_next_stage_runs(tmp_path, monkeypatch, code, said, budget):
    def start(stage, chosen, limit, log):
        started.append(stage)
        body = code if stage == "default" else "pass"
        return subprocess.Popen([sys.executable, "-c", body], stdout=log, stderr=log, start_new_session=True)

    started = []
    monkeypatch.setattr(kit, "STAGES", {"default": 1, "sampling": 9})
    monkeypatch.setattr(kit, "_start", start)
    monkeypatch.setattr(kit, "GRACE", 0.5)
    record = Record(tmp_path / "sampling.json", "sampling", seconds=60)
    record.finish()
    with pytest.raises(SystemExit) as ended:
        kit.main(["--stages", "default", "sampling", "--out", str(tmp_path), "--budget", str(budget)])
    assert ended.value.code == 1
    (row,) = rows(tmp_path / "default.json")
    assert row["ok"] is False
    assert said in row["text"]
    assert started == ["default", "sampling"]
    assert not rows(tmp_path / "sampling.json")


def test_the_command_runs_a_stage_in_its_own_process_and_prints_its_rows(tmp_path):
    command = [sys.executable, "-m", "benchmarks.device", "--stages", "likelihood", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bits per dimension on MNIST" in done.stdout
    content = json.loads((tmp_path / "likelihood.json").read_text())
    assert content["finished"] is True
    assert len(content["rows"]) == 1


def test_a_failing_program_is_told_by_its_last_line(tmp_path):
    with pytest.raises(FailedError, match=r"exit code 1; .*no such sampler - did you mean 'ddim'"):
        run("train.py", tmp_path / "run", "sampler=ddmi", timeout=200)


def test_a_component_that_differs_between_devices_is_found():
    torch.manual_seed(0)
    values = torch.randn(100)
    assert correctness.difference([values], [values]) == 0
    assert correctness.difference([values * 1.001], [values]) == pytest.approx(1e-3, rel=1e-3)
    assert correctness.difference([values * torch.nan], [values]) == torch.inf
    seen = iter([1.0, 1.01])
    assert correctness.both(lambda where: [next(seen) * values])["ok"] is False


def test_waits_are_counted_by_the_lines_that_cause_them():
    def wait():
        warnings.warn(MESSAGE, stacklevel=1)

    with Syncs() as syncs:
        for _ in range(3):
            wait()
        wait()
    often, once = syncs.sites()
    assert (often["count"], once["count"]) == (3, 1)
    assert often["lines"][-1].endswith(" wait")
    assert often["lines"][-1].startswith("tests/benchmarks/test_device.py:")
    assert syncs.total == 4
    with pytest.warns(UserWarning, match=MESSAGE):
        wait()


def test_a_run_is_timed_profiled_and_watched_over_separate_steps(tiny, tmp_path, scratch_registry):
    device_watch = importlib.import_module("benchmarks.device.plugins.device_watch").device_watch
    experiment = build_experiment(tiny({"callbacks": [], "trainer.max_steps": 8}), tmp_path)
    experiment.trainer.callbacks.append(device_watch(tmp_path, first=2, steps=2, profile=True, syncs=True))

    class Slow(lightning.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step in (4, 5):
                warnings.warn(MESSAGE, stacklevel=1)  # while profiled: not counted
            if trainer.global_step in (6, 7):
                warnings.warn(MESSAGE, stacklevel=1)

    experiment.trainer.callbacks.append(Slow())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        experiment.trainer.fit(experiment.module)
    found = json.loads((tmp_path / "device_watch.json").read_text())
    assert found["seconds_per_step"] > 0
    assert found["syncs_per_step"] == 1
    # Python's caller and the engine's own method: which of the two are among the slowest depends on the machine.
    backward = [row for row in found["host_profile"] if "run_backward" in row["function"]]
    assert backward
    assert {row["calls"] for row in backward} == {1}


CHECK = """
import json, sys
from diffusion_fw import ConfigError, load_plugins
from diffusion_fw.config.application import check_command_line
from diffusion_fw.config.compose import store_components
load_plugins(sys.argv[1])
store_components()
for program, *overrides in json.load(sys.stdin):
    try:
        check_command_line(program.removesuffix(".py"), overrides)
    except ConfigError as error:
        print(program, *overrides, error)
"""


def test_every_command_line_of_the_kit_is_one_that_the_programs_accept(tmp_path, monkeypatch):
    asked = []

    class Refused:
        returncode = 1

        def __init__(self, command, **_):
            asked.append([item for item in command[1:] if not item.startswith("hydra.")])

        def wait(self, timeout=None):
            return 1

    data = tmp_path / "data"
    (data / "mnist").mkdir(parents=True)
    options = Options(False, data, tmp_path / "work", tmp_path / "shared")
    record = Record(tmp_path / "stage.json", "stage", seconds=600)
    monkeypatch.setattr("benchmarks.device.command.subprocess.Popen", Refused)
    monkeypatch.setattr(likelihood, "affordable", lambda seconds, options: 1000)
    for stage in (default, likelihood, programs):
        stage.run(record, options)
    monkeypatch.setattr("benchmarks.device.ddpm.flops_per_image", lambda options: 1.0)
    with pytest.raises(FailedError):
        Timed(record, options).program("timed", 512, "compile=true", profile=True, syncs=True)
    monkeypatch.undo()
    assert len(asked) > 25
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(PLUGINS)], input=json.dumps(asked), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout


def test_the_timed_network_is_that_of_ddpm_for_cifar10(tmp_path):
    assert SHAPE == (3, 32, 32)
    assert DDPM["channels"] == 128
    # Ho et al. 2020, appendix B: 35.7 million parameters.
    assert round(parameters(Options(False, None, tmp_path, tmp_path)) / 1e6, 1) == 35.7


def test_the_mean_time_is_that_of_the_calls():
    calls = []
    seconds_per_call(lambda: calls.append(1), within=100, warmup=2, most=5)
    assert len(calls) == 2 + 1 + 5
