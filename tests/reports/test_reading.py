"""Folders of runs are read whatever they hold; what cannot be read is a note."""

from __future__ import annotations

import json
import os

import pytest
from run_folders import evaluate_run, record, result_line, train_run

from diffusion_fw.registry import ConfigError
from diffusion_fw.reports.reading import flattened, read_runs


def only(folder):
    (run,) = read_runs([folder])
    return run


def test_a_run_is_read_with_its_numbers(tmp_path):
    train_run(tmp_path, {"schedule": {"name": "linear"}, "seed": 3})
    run = only(tmp_path)
    assert run.curves["train/loss"] == [(100, 1.0), (200, 0.5), (300, 1 / 3)]
    assert run.by_log_snr[200] == [(-2.0, 0.05), (3.0, 0.45)]
    assert (run.best.value, run.seed, run.config["schedule"]) == (10.0, "3", "linear")
    assert run.command == "python train.py schedule=linear seed=3"
    assert run.diffs["git-0123456789ab.diff"].startswith("diff --git")
    assert run.notes == []


def test_jobs_are_found_below_a_folder_in_the_order_of_their_numbers_and_each_once(tmp_path):
    for job in (10, 2, 0):
        train_run(tmp_path / "sweep" / str(job), {"seed": job}, pictures=False)
    # A folder of pictures, of checkpoints or of W&B holds no run.
    train_run(tmp_path / "sweep" / "0" / "wandb" / "run", {}, pictures=False)
    assert [run.name for run in read_runs([tmp_path / "sweep"])] == ["0", "2", "10"]
    assert [run.name for run in read_runs([tmp_path / "sweep", tmp_path])] == ["sweep/0", "sweep/2", "sweep/10"]


def test_folders_of_one_name_are_told_apart(tmp_path):
    for place in ("a", "b"):
        train_run(tmp_path / place / "sweep" / "0", {"seed": 0}, pictures=False)
    folders = [tmp_path / "a" / "sweep", tmp_path / "b" / "sweep"]
    assert [run.name for run in read_runs(folders)] == [f"{folder}/0" for folder in folders]


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: folder.mkdir()], ids=["absent", "empty"])
def test_a_folder_without_a_run_is_an_error_of_one_line(tmp_path, make):
    folder = tmp_path / "none"
    make(folder)
    with pytest.raises(ConfigError, match=r"give the folder of a run or of a sweep$") as caught:
        read_runs([folder])
    assert "\n" not in str(caught.value)


def test_a_run_that_is_running_or_failed_is_a_run(tmp_path):
    record(tmp_path / "0", "train", ["seed=0"], status="running")
    record(tmp_path / "1", "train", ["seed=1"], status="failed", error="ValueError: no")
    running, failed = read_runs([tmp_path])
    assert (running.status, failed.status, failed.error) == ("running or killed", "failed", "ValueError: no")


def test_every_line_of_an_evaluation_is_read_and_a_record_of_the_first_version_too(tmp_path):
    lines = [result_line(3.0), result_line(0.7, metric="inception_score", better="higher", floor=None, interval=None)]
    evaluate_run(tmp_path / "0", lines)
    evaluate_run(tmp_path / "1", [])
    (tmp_path / "1" / "evaluation.json").write_text(json.dumps({"metric": "nll/ema", "value": 3.1, "seed": 4}))
    first, second = read_runs([tmp_path])
    assert [(item.metric, item.value, item.higher_is_better) for item in first.measured] == [
        ("fid/digits@64/ema", 3.0, False),
        ("inception_score", 0.7, True),
    ]
    assert (first.measured[0].floor, first.measured[0].interval) == (0.5, (2.0, 4.0))
    assert first.measured[0].costs == {"evaluations": 10, "seconds per sample": 0.1, "seconds of evaluation": 5}
    assert first.config["sampler"] == "ddim"
    assert (second.measured[0].value, second.seed) == (3.1, "4")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", b"{"),
        ("run.json", b'{"overrides": [], "attempts": [], "result": 1}'),
        ("config.yaml", b"a: [1"),
        ("config.yaml", b"!!python/object/apply:os.system [exit]"),
        ("config.yaml", b"- 1"),
        ("metrics.csv", b"\xff\xfe\x00step,\x00"),
        ("metrics.csv", b"step,a\n1,2,3,4\nx,y\n\n1\n" + b"5," + b"9" * 200_000),
        ("evaluation.json", b"[1, 2]"),
        ("evaluation.json", b'{"results": [{"metric": ["x"], "value": NaN}, 3, {"metric": "a", "value": true}]}'),
        ("evaluation.json", b"[" * 100_000),
    ],
)
def test_a_damaged_file_is_no_error(tmp_path, name, content):
    train_run(tmp_path, {"seed": 0}, pictures=False)
    (tmp_path / name).write_bytes(content)
    run = only(tmp_path)
    assert not run.measured
    assert name in " ".join(run.notes) or name in ("config.yaml", "metrics.csv", "evaluation.json")


def test_aliases_that_stand_for_millions_of_values_are_cut(tmp_path):
    levels = ["a0: &a0 {x: 1, y: 2}"] + [
        f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(9))}}}" for n in range(1, 10)
    ]
    lists = ["b0: &b0 [1, 2]"] + [f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 30)}]" for n in range(1, 10)]
    train_run(tmp_path, {"seed": 0}, pictures=False)
    (tmp_path / "config.yaml").write_text("\n".join([*lists, *levels]))
    config = only(tmp_path).config
    assert len(config) <= 2001
    assert all(len(text) < 100_000 for text in config.values())


@pytest.mark.parametrize("name", ["metrics.csv", "config.yaml", "evaluation.json", "run.json", "git-0123456789ab.diff"])
def test_links_are_not_followed(tmp_path, name):
    secret = tmp_path / "secret"
    secret.write_text("step,secret\n1,2\n")
    folder = tmp_path / "run"
    train_run(folder, {"seed": 0}, pictures=False)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    assert "secret" not in str(only(folder).__dict__).replace(os.fspath(tmp_path), "")


def test_the_record_names_no_file_outside_the_folder(tmp_path):
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "run"
    attempts = [{"repositories": [{"diff": "../secret"}, {"diff": "/etc/passwd"}, {"diff": 3}]}]
    record(folder, "train", [], attempts=attempts)
    assert only(folder).diffs == {}


def test_a_pipe_is_not_waited_for(tmp_path):
    train_run(tmp_path, {"seed": 0}, pictures=False)
    (tmp_path / "metrics.csv").unlink()
    os.mkfifo(tmp_path / "metrics.csv")
    assert "metrics.csv cannot be read" in only(tmp_path).notes[0]


def test_a_component_stands_at_the_key_of_its_group():
    config = {"schedule": {"name": "vp", "beta": 0.1}, "guidance": {"clip": {"low": -1}}, "logger": {}, "flag": True}
    assert flattened(config) == {
        "schedule": "vp",
        "schedule.beta": "0.1",
        "guidance": "clip",
        "guidance.clip.low": "-1",
        "logger": "none",
        "flag": "true",
    }
