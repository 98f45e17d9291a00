"""sweep=optuna: what is drawn, what a study does with good, pruned and failed trials, and how it is continued."""

from __future__ import annotations

import csv
import math

import pytest

optuna = pytest.importorskip("optuna")

from hydra._internal.config_loader_impl import ConfigLoaderImpl  # noqa: E402
from hydra._internal.utils import create_config_search_path  # noqa: E402
from hydra.core.override_parser.overrides_parser import OverridesParser  # noqa: E402
from hydra.core.utils import JobReturn, JobStatus  # noqa: E402
from hydra.errors import CompactHydraException  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402
from optuna.trial import TrialState  # noqa: E402
from PIL import Image  # noqa: E402

from diffusion_fw.config.application import check_command_line  # noqa: E402
from diffusion_fw.config.compose import store_components  # noqa: E402
from diffusion_fw.registry import ConfigError  # noqa: E402
from diffusion_fw.sweeps.optuna_search import distribution, search  # noqa: E402
from diffusion_fw.sweeps.trial import STUDY, TrialReports  # noqa: E402
from diffusion_fw.training.callbacks.health import NumericalError  # noqa: E402
from diffusion_fw.training.callbacks.history import History  # noqa: E402

OVERRIDES = ["optimizer.lr=tag(log,interval(1e-4,1e-2))", "schedule=linear,cosine", "seed=3"]


@pytest.fixture(scope="module", autouse=True)
def components():
    store_components()


def values_of(job):
    return dict(override.split("=", 1) for override in job)


class Runs:
    """A launcher whose runs return or raise what ``answer`` gives."""

    def __init__(self, answer):
        self.answer, self.jobs = answer, []

    def __call__(self, jobs, first):
        self.jobs += [values_of(job) for job in jobs]
        results = []
        for job in jobs:
            answer = self.answer(values_of(job))
            failed = isinstance(answer, Exception)
            results.append(JobReturn(job, status=JobStatus.FAILED if failed else JobStatus.COMPLETED))
            results[-1].return_value = answer
        return results


def searched(folder, answer, *, overrides=OVERRIDES, **settings):
    given = {"n_trials": 6, "sampler": "tpe", "pruner": "median", "seed": 0, "parallel": 1, "storage": None}
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}, "sweeper": {**given, **settings}}})
    runs = Runs(answer)
    loader = ConfigLoaderImpl(config_search_path=create_config_search_path(None))
    return search(config, list(overrides), loader, runs), runs.jobs


def study_in(folder):
    return optuna.load_study(study_name=STUDY, storage=f"sqlite:///{folder / 'study.db'}")


@pytest.mark.parametrize(
    ("override", "drawn_from"),
    [
        ("a=interval(0,1)", FloatDistribution(0, 1)),
        ("a=tag(log,interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("a=int(interval(1,8))", IntDistribution(1, 8)),
        ("a=range(2,11,4)", IntDistribution(2, 10, step=4)),
        ("a=range(0,1,0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("a=linear,cosine", CategoricalDistribution(["linear", "cosine"])),
        ("a=choice(1,true)", CategoricalDistribution(["1", "True"])),
    ],
)
def test_each_kind_of_sweep_is_drawn_from_its_distribution(override, drawn_from):
    assert distribution(OverridesParser.create().parse_override(override)) == drawn_from


def test_a_search_returns_the_smallest_distance_and_varies_only_what_is_swept(tmp_path):
    best, jobs = searched(tmp_path, lambda job: abs(math.log10(float(job["optimizer.lr"])) + 3), n_trials=8)
    assert best == min(abs(math.log10(float(job["optimizer.lr"])) + 3) for job in jobs)
    assert {job["seed"] for job in jobs} == {"3"}
    assert all(1e-4 <= float(job["optimizer.lr"]) <= 1e-2 for job in jobs)
    assert {job["schedule"] for job in jobs} == {"linear", "cosine"}
    assert [int(job["hydra.sweeper.trial"]) for job in jobs] == list(range(8))


def test_a_search_that_a_file_keeps_is_that_of_the_command_line(tmp_path):
    params = dict(override.split("=", 1) for override in OVERRIDES[:2])
    given = {"n_trials": 3, "parallel": 3}
    _, jobs = searched(tmp_path / "a", lambda job: float(job["optimizer.lr"]), **given)
    _, kept = searched(
        tmp_path / "b", lambda job: float(job["optimizer.lr"]), overrides=OVERRIDES[2:], params=params, **given
    )
    assert kept == jobs
    batches = []

    def answer(batch, first):
        batches.append(len(batch))
        return Runs(lambda job: 1.0)(batch, first)

    sweeper = {"sampler": "random", "pruner": "none", "seed": 0, "storage": None, "max_batch_size": 2, **given}
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path / "c")}, "sweeper": sweeper}})
    search(config, OVERRIDES, ConfigLoaderImpl(config_search_path=create_config_search_path(None)), answer)
    assert batches == [2, 1]


def test_a_search_finds_smaller_distances_than_independent_draws(tmp_path, monkeypatch):
    monkeypatch.setattr("diffusion_fw.sweeps.optuna_search.write_results", lambda *_: None)

    def bowl(job):
        return abs(math.log10(float(job["optimizer.lr"])) + 2.2) + (job["schedule"] == "linear")

    def late(name):
        _, jobs = searched(tmp_path / name, bowl, n_trials=20, sampler=name)
        return sum(bowl(job) for job in jobs[10:])

    assert late("tpe") < 0.5 * late("random")


def test_a_continued_study_draws_other_values_and_counts_its_existing_trials(tmp_path):
    _, first = searched(tmp_path, lambda job: 1.0, n_trials=3)
    _, second = searched(tmp_path, lambda job: 1.0, n_trials=5)
    assert (len(first), len(second)) == (3, 2)
    assert len({job["optimizer.lr"] for job in first + second}) == 5
    _, third = searched(tmp_path, lambda job: 1.0, n_trials=5)
    assert third == []


def test_trials_of_a_killed_sweep_are_repeated_with_the_same_values(tmp_path):
    def killed(job):
        if job["hydra.sweeper.trial"] == "2":
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, killed, n_trials=4)
    lost = study_in(tmp_path).trials[2].params
    _, jobs = searched(tmp_path, lambda job: 1.0, n_trials=4)
    assert [job["optimizer.lr"] for job in jobs].count(str(lost["optimizer.lr"])) == 1
    assert jobs[0]["schedule"] == lost["schedule"]
    assert len(jobs) == 2


@pytest.mark.parametrize("parallel", [1, 3])
def test_diverged_and_failed_trials_do_not_end_a_search(tmp_path, parallel, capsys):
    answers = [math.nan, 0.5, RuntimeError("disk on fire"), math.inf, NumericalError("loss is NaN"), 0.25]
    best, _ = searched(tmp_path, lambda job: answers[int(job["hydra.sweeper.trial"])], parallel=parallel)
    assert best == 0.25
    trials = study_in(tmp_path).trials
    assert [trial.state for trial in trials] == [
        *[TrialState.COMPLETE] * 2,
        TrialState.FAIL,
        *[TrialState.COMPLETE] * 3,
    ]
    assert [trial.value for trial in trials] == [math.inf, 0.5, None, math.inf, math.inf, 0.25]
    said = capsys.readouterr().out
    assert "trial 2: disk on fire" in said
    assert "trial 4: loss is NaN" in said
    with (tmp_path / "trials.csv").open() as file:
        outcomes = [row["outcome"] for row in csv.DictReader(file)]
    assert outcomes == ["diverged", "complete", "failed", "diverged", "diverged", "complete"]
    with Image.open(tmp_path / "trials.png") as picture:
        picture.load()


def test_a_search_without_a_finite_distance_is_an_error(tmp_path):
    with pytest.raises(CompactHydraException, match="none of 2 trials"):
        searched(tmp_path, lambda job: math.inf, n_trials=2)


def test_a_study_of_other_choices_is_not_continued(tmp_path):
    searched(tmp_path, lambda job: 1.0, n_trials=1)
    with pytest.raises(CompactHydraException, match=r"linear\|cosine.*hydra.sweep.dir"):
        searched(tmp_path, lambda job: 1.0, overrides=["schedule=vp,cosine"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sampler": "tpa"}, "did you mean 'tpe'"),
        ({"pruner": "mean"}, "median, halving, none"),
        ({"n_trials": 0}, "at least 1"),
        ({"parallel": -1}, "at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, setting, message):
    with pytest.raises(CompactHydraException, match=message):
        searched(tmp_path, lambda job: 1.0, **setting)


class OneProcess:
    """What TrialReports needs of a trainer."""

    is_global_zero, max_steps, should_stop = True, 30, False

    @property
    def strategy(self):
        return self

    def broadcast(self, value):
        return value


@pytest.mark.parametrize(("distance", "stopped"), [(9.0, True), (0.5, False)])
def test_a_run_worse_than_the_median_at_its_step_is_stopped_and_reported_as_pruned(tmp_path, distance, stopped):
    ends = []

    def run(job):
        number = int(job["hydra.sweeper.trial"])
        trainer, history = OneProcess(), History(every=1)
        reports = TrialReports(history, f"sqlite:///{tmp_path / 'study.db'}", number, "median")
        for step in (10, 20, 30):
            history.distances.append([step, distance if number == 6 else 1.0])
            reports.after_step(trainer, None, step)
            if trainer.should_stop:
                break
        ends.append(step)
        return history.best

    searched(tmp_path, run, n_trials=7)
    last = study_in(tmp_path).trials[6]
    assert ends == [30] * 6 + [10 if stopped else 30]
    assert last.state == (TrialState.PRUNED if stopped else TrialState.COMPLETE)
    assert last.value == distance


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["-m", "optimizer.lr=interval(1e-4,1e-2)"], "add it, or list values"),
        (["-m", "sweep=optuna", "optimizer.lr=interval(1,1)"], "start must be below"),
        (["-m", "sweep=optuna", "optimizer.lr=tag(log,interval(0,1))"], "above 0"),
        (["-m", "sweep=optuna", "optimizer.lr=interval(-1,1)"], "optimizer.lr"),
        (["-m", "sweep=optuna", "optimizer.lr=0.1"], "nothing to vary"),
        (["sweep=optuna"], "add -m"),
        (["-m", "sweep=optuna,basic"], "one sweep"),
        (["-m", "sweep=optun"], "did you mean 'optuna'"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_runs(overrides, message):
    with pytest.raises(ConfigError, match=message):
        check_command_line("train", overrides)


def test_both_ends_of_an_interval_are_checked_with_every_choice():
    overrides = ["-m", "sweep=optuna", "optimizer.lr=tag(log,interval(1e-4,1e-2))", "schedule=linear,cosine"]
    configs = check_command_line("train", overrides)
    found = {(config["optimizer"]["lr"], config["schedule"]["name"]) for config in configs}
    assert found == {(1e-4, "linear"), (1e-4, "cosine"), (1e-2, "linear"), (1e-2, "cosine")}
