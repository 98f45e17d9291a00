"""sweep=basic: a failed job neither stops nor hides another, and a repeated sweep runs only the unfinished jobs."""

from __future__ import annotations

import csv
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from examples import TINY_WORDS
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf
from PIL import Image

from diffusion_fw.runs import record
from diffusion_fw.runs.record import Result, recorded
from diffusion_fw.sweeps import folder as sweep_folder
from diffusion_fw.sweeps import tables
from diffusion_fw.sweeps.grid_sweep import sweep

ROOT = Path(__file__).parents[2]
OVERRIDES = ["schedule=linear,cosine", "seed=0,1", "batch_size=8"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(record, "provenance", lambda folder: {})


class Jobs:
    """A launcher whose jobs write a record, and return or raise what ``answer`` gives."""

    def __init__(self, folder, answer, metric=lambda job: "fid"):
        self.folder, self.answer, self.metric, self.ran = folder, answer, metric, []

    def __call__(self, jobs, first):
        return [self.run(dict(override.split("=", 1) for override in overrides), overrides) for overrides in jobs]

    def run(self, values, overrides):
        number = int(values.pop("hydra.sweeper.job"))
        self.ran.append((number, values))
        folder = self.folder / str(number)
        folder.mkdir(exist_ok=True)
        result = JobReturn(overrides, status=JobStatus.COMPLETED)
        own = [override for override in overrides if not override.startswith("hydra")]
        try:
            with recorded(folder, "train", own, number=number, seed=0) as job:
                answer = self.answer(values)
                if isinstance(answer, BaseException):
                    raise answer
                job.result, result.return_value = Result(self.metric(values), answer), answer
        except Exception as error:
            result.status, result.return_value = JobStatus.FAILED, error
        return result


def swept(folder, answer, overrides=OVERRIDES, **how):
    """(results, what ran) of a sweep, and the error that ended it, if any."""
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}, "sweeper": {}}})
    loader, jobs = ConfigLoaderImpl(config_search_path=create_config_search_path(None)), Jobs(folder, answer, **how)
    try:
        return sweep(config, list(overrides), loader, jobs), jobs.ran, None
    except CompactHydraException as error:
        return None, jobs.ran, str(error)


def rows(folder):
    with (folder / "jobs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def distance(job):
    return int(job["seed"]) + (1.0 if job["schedule"] == "linear" else 3.0)


def test_every_combination_runs_once_with_the_fixed_values(tmp_path):
    results, ran, error = swept(tmp_path, distance, [*OVERRIDES, "seed=0,1,0"])
    assert error is None
    assert results == [1.0, 2.0, 3.0, 4.0]
    assert [number for number, _ in ran] == [0, 1, 2, 3]
    assert [values for _, values in ran] == [
        {"schedule": schedule, "seed": seed, "batch_size": "8"}
        for schedule in ("linear", "cosine")
        for seed in ("0", "1")
    ]


def test_a_failed_job_neither_stops_nor_hides_among_the_others(tmp_path, capsys):
    def answer(job):
        return ValueError("[disk] on fire") if job == {**job, "schedule": "linear", "seed": "1"} else distance(job)

    _, ran, error = swept(tmp_path, answer)
    assert len(ran) == 4
    assert "1 of 4 jobs did not finish: 1" in error
    assert [row["outcome"] for row in rows(tmp_path)] == ["finished", "failed", "finished", "finished"]
    assert [row["result"] for row in rows(tmp_path)] == ["1.0", "", "3.0", "4.0"]
    assert "job 1: ValueError: [disk] on fire" in capsys.readouterr().out
    with Image.open(tmp_path / "jobs.png") as picture:
        assert picture.width == 900


def test_values_with_brackets_are_shown_and_recognised(tmp_path, capsys):
    overrides = ["guidance=[clip],[classifier_free,clip]", "+own='a, [/b]'"]
    _, ran, error = swept(tmp_path, lambda job: 1.0, overrides)
    assert error is None
    assert [values["guidance"] for _, values in ran] == ["[clip]", "[classifier_free,clip]"]
    said = capsys.readouterr().out
    assert "│ [clip] " in said
    assert "[classifier_free,clip]" in said
    assert swept(tmp_path, lambda job: 1.0, overrides)[1] == []


def test_a_repeated_sweep_runs_only_the_unfinished_jobs(tmp_path):
    swept(tmp_path, lambda job: ValueError("no") if job["seed"] == "1" else distance(job))
    results, ran, error = swept(tmp_path, distance, reversed(OVERRIDES))
    assert error is None
    assert sorted(results) == [1.0, 2.0, 3.0, 4.0]
    assert sorted(number for number, _ in ran) == [1, 3]
    assert swept(tmp_path, distance)[1] == []
    assert {row["outcome"] for row in rows(tmp_path)} == {"finished"}


def test_an_enlarged_sweep_keeps_its_jobs_and_numbers(tmp_path):
    swept(tmp_path, distance)
    results, ran, _ = swept(tmp_path, distance, ["schedule=sigmoid,linear,cosine", "seed=0,1", "batch_size=8"])
    assert [number for number, _ in ran] == [4, 5]
    assert {values["schedule"] for _, values in ran} == {"sigmoid"}
    assert results == [1.0, 2.0, 3.0, 4.0, 3.0, 4.0]


def test_jobs_whose_record_has_the_numbers_as_hydra_spells_them_are_recognised(tmp_path):
    """As those of version 0.1.0 have."""
    swept(tmp_path, lambda job: 1.0, ["optimizer.lr=0.0001,0.001", "batch_size=1000"])
    results, ran, _ = swept(tmp_path, lambda job: 2.0, ["optimizer.lr=1e-4,1e-3,1e-2", "batch_size=1_000"])
    assert [(number, values["optimizer.lr"]) for number, values in ran] == [(2, "1e-2")]
    assert results == [1.0, 1.0, 2.0]


def test_jobs_with_other_fixed_values_are_others(tmp_path):
    swept(tmp_path, distance)
    _, ran, _ = swept(tmp_path, distance, ["schedule=linear,cosine", "seed=0,1", "batch_size=16"])
    assert [number for number, _ in ran] == [4, 5, 6, 7]
    assert len(rows(tmp_path)) == 4


def test_a_killed_sweep_leaves_its_table_and_can_be_continued(tmp_path):
    def killed(job):
        return KeyboardInterrupt() if (job["schedule"], job["seed"]) == ("cosine", "0") else distance(job)

    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path, killed)
    assert [row["outcome"] for row in rows(tmp_path)] == ["finished", "finished", "interrupted", "not run"]
    _, ran, error = swept(tmp_path, distance)
    assert error is None
    assert [number for number, _ in ran] == [2, 3]


def test_a_sweep_leaves_a_page_of_its_jobs_even_if_it_is_killed(tmp_path, capsys):
    def killed(job):
        return KeyboardInterrupt() if (job["schedule"], job["seed"]) == ("cosine", "0") else distance(job)

    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path, killed)
    assert f"3 runs on one page of 1.2 MB: {tmp_path / 'report.html'}" in capsys.readouterr().out
    swept(tmp_path, distance)
    page = (tmp_path / "report.html").read_text()
    assert "4 runs, 2 settings: 4 finished" in page
    assert "schedule=cosine" in page


def test_a_page_that_cannot_be_made_fails_no_sweep(tmp_path, monkeypatch):
    def fails(folders):
        raise KeyError("unforeseen")

    monkeypatch.setattr(sweep_folder, "write_report", fails)
    results, _, error = swept(tmp_path, distance)
    assert error is None
    assert results == [1.0, 2.0, 3.0, 4.0]


def test_a_table_that_cannot_be_written_hides_no_result(tmp_path, monkeypatch, capsys):
    def full(path, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables, "write_csv", full)
    results, _, error = swept(tmp_path, distance)
    assert error is None
    assert results == [1.0, 2.0, 3.0, 4.0]
    assert "4 jobs" in capsys.readouterr().out


def test_a_launcher_that_breaks_hides_no_job_that_finished(tmp_path):
    class Worker:
        def __init__(self):
            self.jobs = Jobs(tmp_path, distance)

        def __call__(self, jobs, first):
            self.jobs(jobs[:2], first)
            raise OSError("the worker was killed")

    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}, "sweeper": {}}})
    loader = ConfigLoaderImpl(config_search_path=create_config_search_path(None))
    with pytest.raises(CompactHydraException, match="2 of 4 jobs did not finish: 2, 3"):
        sweep(config, list(OVERRIDES), loader, Worker())
    assert [row["outcome"] for row in rows(tmp_path)] == ["finished", "finished", "failed", "failed"]
    assert "the worker was killed" in rows(tmp_path)[2]["error"]


def test_a_job_that_another_process_runs_is_reported_and_left_to_it(tmp_path):
    overrides = ["seed=0,1", "schedule=linear"]
    (tmp_path / "0").mkdir()
    with recorded(tmp_path / "0", "train", ["seed=0", "schedule=linear"], number=0, seed=0):
        other = (tmp_path / "0" / "run.json").read_bytes()
        _, _, error = swept(tmp_path, distance, overrides)
        assert "1 of 2 jobs did not finish: 0" in error
        assert [row["outcome"] for row in rows(tmp_path)] == ["in use", "finished"]
        assert "is in use" in rows(tmp_path)[0]["error"]
        assert (tmp_path / "0" / "run.json").read_bytes() == other


def test_the_table_over_seeds_gives_mean_and_standard_deviation(tmp_path, capsys):
    found = {"0": 0.125, "1": 0.5, "2": 0.75}
    swept(tmp_path, lambda job: found[job["seed"]], ["seed=0,1,2", "schedule=linear"])
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if re.search(r"all\W+3\W", line))
    assert f"{statistics.fmean(found.values()):.4g}" in line
    assert f"{statistics.stdev(found.values()):.4g}" in line


def test_jobs_of_different_code_are_reported(tmp_path, monkeypatch, capsys):
    for commit, overrides in (("a" * 40, ["seed=0,1"]), ("b" * 40, ["seed=0,1,2"])):
        state = {"repositories": [{"commit": commit, "diff": None}], "packages": {"torch": "2"}}
        monkeypatch.setattr(record, "provenance", lambda folder, state=state: state)
        swept(tmp_path, lambda job: 1.0, overrides)
    said = capsys.readouterr().out
    assert "the jobs differ in code; jobs 0, 1: aaaaaaaaaa; job 2: bbbbbbbbbb" in said
    assert "packages" not in said


def test_a_job_that_resumed_with_other_code_is_reported(tmp_path, monkeypatch, capsys):
    for commit, answer in (("a" * 40, RuntimeError("a bug")), ("b" * 40, 1.0)):
        state = {"repositories": [{"commit": commit, "diff": None}]}
        monkeypatch.setattr(record, "provenance", lambda folder, state=state: state)
        swept(tmp_path, lambda job, answer=answer: answer if job["seed"] == "1" else 1.0, ["seed=0,1"])
    assert "job 1 resumed with other code than at the start" in capsys.readouterr().out


def test_results_of_different_metrics_are_reported(tmp_path, capsys):
    swept(tmp_path / "two", distance, metric=lambda job: f"fid/digits@{job['seed']}/ema")
    assert "the jobs differ in metric; jobs 0, 2: fid/digits@0; jobs 1, 3: fid/digits@1" in capsys.readouterr().out
    assert [row["metric"] for row in rows(tmp_path / "two")][:2] == ["fid/digits@0/ema", "fid/digits@1/ema"]
    swept(tmp_path / "weights", distance, metric=lambda job: f"fid/digits@8/{job['seed']}")
    assert "the jobs differ" not in capsys.readouterr().out


def test_results_over_a_swept_number_are_drawn_over_it(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(tables, "jobs_over", lambda path, key, lines, name, floor: drawn.update({key: lines}))
    overrides = ["steps=10,2,5", "schedule=linear,cosine", "seed=0,1"]
    swept(tmp_path, lambda job: float(job["steps"]) + int(job["seed"]), overrides)
    line = {2.0: [2.0, 3.0], 5.0: [5.0, 6.0], 10.0: [10.0, 11.0]}
    assert drawn == {"steps": {"schedule=linear": line, "schedule=cosine": line}}


# --------------------------------------------------------------------------------------------------------------------
# The program
# --------------------------------------------------------------------------------------------------------------------

KILLER = """
import os, signal
from pathlib import Path
import lightning
from diffusion_fw import register

class Killer(lightning.Callback):
    def __init__(self, step, flag):
        self.step, self.flag = step, Path(flag)

    def on_train_start(self, trainer, module):
        with open(f"{self.flag}.starts", "a") as file:
            print(trainer.global_step, file=file)

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step == self.step and trainer.max_steps == 9 and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)

@register("callbacks", "killer")
def killer(step: int = 5, flag: str = ""):
    return Killer(step, flag)
"""

TINY = [*TINY_WORDS, "callbacks=[evaluation,checkpoints,killer]"]


def train(folder, flag, *arguments):
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine" / "killer.py").write_text(KILLER)
    own = {"PYTHONPATH": str(ROOT), "DIFFUSION_FW_PLUGINS": str(folder / "mine"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), "-m", *arguments, *TINY, f"callbacks.killer.flag={flag}"]
    return subprocess.run(command, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, timeout=120)


def test_a_killed_and_partly_failed_sweep_ends_as_an_undisturbed_one(tmp_path):
    """Jobs: 8 steps, finished before the kill; 9 steps, killed at the sixth; a batch that cannot be divided."""
    overrides = ["trainer.max_steps=8,9", "hydra.sweep.dir=sweep"]
    flag = tmp_path / "flag"
    assert train(tmp_path, flag, *overrides).returncode == -9
    statuses = [record.read_record(tmp_path / "sweep" / job)["status"] for job in "01"]
    assert statuses == ["finished", "running"]
    overrides[0] += " trainer.accumulate_grad_batches=1,3"
    again = train(tmp_path, flag, *overrides[0].split(), overrides[1])
    assert again.returncode == 1
    assert "batch_size=8 is that of" in again.stdout
    # Other overrides make other jobs: those with accumulate_grad_batches=1 train from the start.
    outcomes = {
        row["trainer.max_steps"] + row["trainer.accumulate_grad_batches"]: row for row in rows(tmp_path / "sweep")
    }
    assert {key: row["outcome"] for key, row in outcomes.items()} == {
        "81": "finished",
        "83": "failed",
        "91": "finished",
        "93": "failed",
    }
    third = train(tmp_path, flag, "trainer.max_steps=8,9", overrides[1])
    assert third.returncode == 0, third.stdout + third.stderr
    assert "1 of 2 jobs had already finished" in third.stdout
    starts = Path(f"{flag}.starts").read_text().split()
    assert starts[-1] == "4", "the last checkpoint before the kill"
    assert set(starts[:-1]) == {"0"}
    resumed = record.read_record(tmp_path / "sweep" / "1")
    assert [attempt["status"] for attempt in resumed["attempts"]] == ["running", "finished"]
    folders = [tmp_path / "sweep" / name for name in ("1", outcomes["91"]["folder"])]
    ours, undisturbed = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for folder in folders
    )
    assert all(torch.equal(ours[key], undisturbed[key]) for key in undisturbed)
    assert rows(tmp_path / "sweep")[1]["result"] == outcomes["91"]["result"]
