"""run.json: it states a run's overrides and state at any moment, and reading git's state runs no other program."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_fw.files import atomic_write, unfinished
from diffusion_fw.registry import ConfigError
from diffusion_fw.runs import provenance
from diffusion_fw.runs import record as run_record
from diffusion_fw.runs.record import LOCK, Result, choices_of, read_record, recorded

ROOT = Path(__file__).parents[2]
OVERRIDES = ["schedule=linear", "seed=3"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The provenance has tests of its own."""
    monkeypatch.setattr(run_record, "provenance", lambda folder: {"python": "3"})
    for name in run_record.RANKS:
        monkeypatch.delenv(name, raising=False)


def run_in(folder, overrides=OVERRIDES, number=4):
    return recorded(folder, "train", overrides, number=number, seed=3)


def test_a_record_says_running_until_the_run_has_ended(tmp_path):
    with run_in(tmp_path) as job:
        assert read_record(tmp_path)["status"] == "running"
        job.result = Result("fid", 0.25)
    record = read_record(tmp_path)
    assert (record["status"], record["result"], record["metric"]) == ("finished", 0.25, "fid")
    assert (record["overrides"], record["seed"], record["job"]) == (OVERRIDES, 3, 4)
    assert record["attempts"][0]["python"] == "3"


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (ValueError("no such thing"), "failed", "ValueError: no such thing"),
        (SystemExit(143), "interrupted", "exit code 143"),
        (KeyboardInterrupt(), "interrupted", "exit code 130"),
    ],
)
def test_a_record_says_how_a_run_ended(tmp_path, raised, status, said):
    with pytest.raises(type(raised)), run_in(tmp_path):
        raise raised
    record = read_record(tmp_path)
    assert record["status"] == status
    assert said in record["error"]


def test_a_resumed_run_is_one_more_attempt_under_its_first_overrides(tmp_path):
    with pytest.raises(SystemExit), run_in(tmp_path):
        raise SystemExit(143)
    with run_in(tmp_path, ["resume=there", "trainer.max_steps=9"], number=None) as job:
        job.result = Result("fid", 1.0)
    record = read_record(tmp_path)
    assert [attempt["status"] for attempt in record["attempts"]] == ["interrupted", "finished"]
    assert (record["overrides"], record["job"], record["error"]) == (OVERRIDES, 4, None)


def test_another_run_in_the_same_folder_starts_its_own_record(tmp_path):
    for overrides in (OVERRIDES, ["schedule=cosine"]):
        with run_in(tmp_path, overrides):
            pass
    assert read_record(tmp_path)["overrides"] == ["schedule=cosine"]
    assert len(read_record(tmp_path)["attempts"]) == 1


@pytest.mark.parametrize("result", [float("inf"), float("nan")])
def test_a_result_that_is_not_finite_is_null(tmp_path, result):
    with run_in(tmp_path) as job:
        job.result = Result("fid", result)
    assert json.loads((tmp_path / "run.json").read_text())["result"] is None


@pytest.mark.parametrize("rank", run_record.RANKS)
def test_only_the_first_process_of_a_run_writes(tmp_path, monkeypatch, rank):
    monkeypatch.setenv(rank, "1")
    with run_in(tmp_path):
        pass
    assert not (tmp_path / "run.json").exists()


def test_a_folder_that_vanishes_ends_no_run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with run_in(folder) as job:
        shutil.rmtree(folder)
        folder.write_text("in the way")
        job.result = Result("fid", 1.0)
    assert read_record(folder) is None


def test_a_file_is_no_folder_of_a_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir=.*: Not a directory"), run_in(tmp_path / "file"):
        pytest.fail("the run started")


def test_two_processes_do_not_run_in_one_folder(tmp_path):
    with run_in(tmp_path):
        other = f"""
from pathlib import Path
from diffusion_fw.runs.record import recorded
with recorded(Path({str(tmp_path)!r}), "train", [], number=None, seed=0):
    pass
"""
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, cwd=ROOT)
        assert "is in use by another run" in done.stderr
        assert read_record(tmp_path)["overrides"] == OVERRIDES
    with run_in(tmp_path):
        pass
    assert len(read_record(tmp_path)["attempts"]) == 2


def test_the_lock_empties_no_other_file_through_a_hard_link(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "other").write_text("mine")
    (tmp_path / "run" / ".run.lock").hardlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"\.run\.lock is a hard link to another file"), run_in(tmp_path / "run"):
        pytest.fail("the run started")
    assert (tmp_path / "other").read_text() == "mine"


def test_what_a_killed_run_left_unfinished_is_removed_by_the_next_and_only_by_that(tmp_path):
    def left():
        return [path.name for path in tmp_path.rglob("*.part")]

    unfinished(tmp_path / "images").mkdir()
    (tmp_path / "samples").mkdir()
    unfinished(tmp_path / "samples" / "step_1.png").write_text("half")
    with run_in(tmp_path):
        assert left() == []
        own = unfinished(tmp_path / "images")
        own.mkdir()
        with pytest.raises(subprocess.CalledProcessError):
            run_to_its_end(tmp_path)
        assert left() == [own.name]


def run_to_its_end(folder, *overrides):
    """Another process that runs in a folder, and writes a checkpoint there."""
    code = f"""
from pathlib import Path
from diffusion_fw.files import atomic_write
from diffusion_fw.runs.record import recorded
folder = Path({str(folder)!r})
folder.mkdir(exist_ok=True)
with recorded(folder, "train", {list(overrides)!r}, number=None, seed=0), atomic_write(folder / "last.ckpt") as file:
    file.write(b"second")
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=100)


def test_a_run_whose_folder_was_removed_writes_nothing_into_another_run_s(tmp_path, caplog):
    folder = tmp_path / "run"
    folder.mkdir()
    with run_in(folder):
        shutil.rmtree(folder)
        run_to_its_end(folder, "seed=7")
        theirs = {path.name: path.read_bytes() for path in folder.iterdir()}
        for path in (folder / "last.ckpt", folder / "checkpoints" / "last.ckpt"):
            with pytest.raises(OSError, match="another run uses the new one"), atomic_write(path) as file:
                file.write(b"first")
        with atomic_write(tmp_path / "elsewhere") as file:
            file.write(b"first")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == theirs
    assert read_record(folder)["overrides"] == ["seed=7"]
    assert "another run uses the new one" in caplog.text
    with run_in(folder):
        pass
    assert read_record(folder)["overrides"] == OVERRIDES


def test_a_run_whose_folder_was_removed_makes_it_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with run_in(folder):
        shutil.rmtree(folder)
    assert read_record(folder)["status"] == "finished"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_in_place_of_a_record_is_none(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    assert read_record(tmp_path) is None


SOUND = {"overrides": ["seed=1"], "result": 0.5, "attempts": [{"seconds": 1.0, "repositories": [{"commit": None}]}]}


@pytest.mark.parametrize(
    "change",
    [
        {"overrides": [1]},
        {"overrides": None},
        {"attempts": {}},
        {"attempts": []},
        {"attempts": [1]},
        {"attempts": [{"seconds": "1"}]},
        {"attempts": [{"repositories": ["x"]}]},
        {"attempts": [{"packages": {"torch": 2}}]},
        {"attempts": [{"plugins": []}]},
        {"result": "0.5"},
    ],
    ids=str,
)
def test_a_record_of_other_types_is_none(tmp_path, change):
    (tmp_path / "run.json").write_text(json.dumps(SOUND))
    assert read_record(tmp_path) == SOUND
    (tmp_path / "run.json").write_text(json.dumps({**SOUND, **change}))
    assert read_record(tmp_path) is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b" " * (run_record.LARGEST + 1)], ids=len
)
def test_a_damaged_record_is_none(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    assert read_record(tmp_path) is None


def test_a_record_with_a_changed_value_is_none(tmp_path):
    """Whichever digit it is: a sweep would report another result, or take the run for another."""
    with run_in(tmp_path) as outcome:
        outcome.result = Result("fid", 0.25)
    path = tmp_path / "run.json"
    content = path.read_bytes()
    assert read_record(tmp_path)["result"] == 0.25
    values = content[: content.index(b'"sha256"')]
    digits = [place for place, value in enumerate(values) if chr(value).isdigit()]
    for place in digits[:: max(1, len(digits) // 50)]:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert read_record(tmp_path) is None, place


def test_two_runs_are_the_same_in_any_order_of_their_overrides_and_on_any_launcher():
    own = choices_of(["seed=1", "schedule=linear", "+trainer.x=1"])
    assert own == choices_of(
        ["launcher=joblib", "schedule=linear", "+trainer.x=1", "seed=1", "hydra.sweeper.job=3", "sweep=basic"]
    )
    assert own != choices_of(["seed=2", "schedule=linear", "+trainer.x=1"])


# --------------------------------------------------------------------------------------------------------------------
# Provenance
# --------------------------------------------------------------------------------------------------------------------


def git(folder, *overrides):
    own = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", *overrides]
    return subprocess.run(own, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    place = tmp_path / "code"
    (place / "inner").mkdir(parents=True)
    git(place, "init", "-q")
    (place / "model.py").write_text("rate = 1\n")
    git(place, "add", "-A")
    git(place, "commit", "-qm", "first")
    return place


def test_the_commit_with_the_diff_is_the_code_that_ran(repository, tmp_path):
    (repository / "model.py").write_text("rate = 2  # größer\n")
    (repository / "new.py").write_text("")
    (state,), diffs = provenance.repositories([repository, repository / "inner"])
    assert state["commit"] == git(repository, "rev-parse", "HEAD")
    assert state["untracked"] == ["new.py"]
    git(repository, "checkout", "-q", "model.py")
    (tmp_path / state["diff"]).write_bytes(diffs[state["diff"]])
    git(repository, "apply", str(tmp_path / state["diff"]))
    assert (repository / "model.py").read_text() == "rate = 2  # größer\n"


def test_clean_code_has_no_diff_and_equal_changes_have_the_same(repository):
    (clean,), diffs = provenance.repositories([repository])
    assert clean["diff"] is None
    assert diffs == {}
    names = []
    for text in ("rate = 2\n", "rate = 2\n", "rate = 3\n"):
        (repository / "model.py").write_text(text)
        names.append(provenance.repositories([repository])[0][0]["diff"])
    assert names[0] == names[1] != names[2]


def test_places_without_git_and_commits_have_none(tmp_path, monkeypatch):
    assert provenance.repositories([tmp_path]) == ([], {})
    git(tmp_path, "init", "-q")
    (state,), _ = provenance.repositories([tmp_path])
    assert state["commit"] is None
    monkeypatch.setenv("PATH", "")
    assert provenance.repositories([tmp_path]) == ([], {})


@pytest.mark.parametrize(
    ("key", "attribute"),
    [
        ("diff.external", ""),
        ("core.fsmonitor", ""),
        ("diff.shown.textconv", "*.py diff=shown"),
        ("diff.shown.command", "*.py diff=shown"),
        ("filter.a=b.clean", "*.py filter=a=b"),
        ("filter.own.clean", "*.py filter=own"),
        ("filter.own.process", "*.py filter=own"),
    ],
)
def test_programs_that_a_repository_s_config_names_are_not_started(repository, tmp_path, key, attribute):
    marker, program = tmp_path / "started", tmp_path / "program"
    program.write_text(f'#!/bin/sh\ntouch {marker}\ncat "$1" 2>/dev/null || cat\n')
    program.chmod(0o755)
    (repository / ".gitattributes").write_text(f"{attribute}\n")
    git(repository, "config", key, str(program))
    git(repository, "config", "filter.own.required", "true")
    (repository / "model.py").write_text("rate = 2\n")
    subprocess.run(["git", "diff", "HEAD"], cwd=repository, capture_output=True)
    assert marker.exists(), "the trap itself does not work"
    marker.unlink()
    (state,), diffs = provenance.repositories([repository])
    assert b"+rate = 2" in diffs[state["diff"]]
    assert not marker.exists()


def test_nothing_is_started_for_a_submodule(repository, tmp_path):
    marker, program = tmp_path / "started", tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    inner = repository / "inner"
    git(inner, "init", "-q")
    (inner / "file").write_text("1\n")
    (inner / ".gitattributes").write_text("file filter=own\n")
    git(inner, "add", "-A")
    git(inner, "commit", "-qm", "first")
    git(repository, "-c", "protocol.file.allow=always", "submodule", "add", "-q", "./inner", "inner")
    git(repository, "commit", "-qm", "with a submodule")
    git(inner, "config", "filter.own.clean", str(program))
    (inner / "file").write_text("2\n")
    subprocess.run(["git", "diff", "HEAD"], cwd=repository, capture_output=True)
    assert marker.exists(), "the trap itself does not work"
    marker.unlink()
    provenance.repositories([repository])
    assert not marker.exists()


def test_code_that_changes_under_a_process_is_recorded_as_it_was_loaded(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository)
    provenance._of_process.cache_clear()
    (repository / "model.py").write_text("rate = 2\n")
    first = provenance.provenance(tmp_path)
    (repository / "model.py").write_text("rate = 3\n")
    (tmp_path / "next").mkdir()
    assert provenance.provenance(tmp_path / "next") == first
    (state,) = (item for item in first["repositories"] if item["folder"] == str(repository))
    assert "+rate = 2" in (tmp_path / "next" / state["diff"]).read_text()
    provenance._of_process.cache_clear()


def test_no_secret_of_the_environment_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a-very-secret-key")
    known = provenance.provenance(tmp_path)
    assert "a-very-secret-key" not in json.dumps(known)
    assert known["packages"]["torch"]
    assert known["python"]


# --------------------------------------------------------------------------------------------------------------------
# The folder of another run
# --------------------------------------------------------------------------------------------------------------------


def everything(folder):
    """Each file of a folder with its content and times; not the time of the lock, which older filelocks set."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.stat()
        found[path.relative_to(folder)] = (
            state.st_ino,
            path.name != LOCK and state.st_mtime_ns,
            path.is_file() and path.read_bytes(),
        )
    return found


@pytest.mark.parametrize(
    "command",
    [
        ["train.py", "data=moons", "network=mlp", "hydra.run.dir=run"],
        ["train.py", "-m", "data=moons", "network=mlp", "seed=0,1", "hydra.sweep.dir=run"],
        ["sample.py", "checkpoint=nowhere.ckpt", "hydra.run.dir=run"],
        ["evaluate.py", "checkpoint=nowhere.ckpt", "hydra.run.dir=run"],
    ],
    ids=" ".join,
)
def test_a_program_that_is_refused_touches_nothing_of_the_run_that_has_the_folder(tmp_path, command):
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    for name in (".hydra/config.yaml", "train.log", "multirun.yaml"):
        (folder / name).write_text("of the run that has the folder")
    with run_in(folder):
        before = everything(folder)
        program, *arguments = command
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, str(ROOT / program), *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("InUseError: run is in use by another run" if "-m" in command else "InUseError: ")
        assert len(done.stderr.splitlines()) == 1
        assert everything(folder) == before


def test_a_mistake_leaves_what_an_earlier_run_has_left(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with run_in(folder) as job:
        job.result = Result("fid", 1.0)
    with pytest.raises(ConfigError), recorded(folder, "train", [], number=None, seed=0, keep_mistakes=False):
        raise ConfigError("a mistake")
    assert (folder / "run.json").exists()
    with pytest.raises(ConfigError), recorded(tmp_path / "new", "train", [], number=None, seed=0, keep_mistakes=False):
        raise ConfigError("a mistake")
    assert not (tmp_path / "new").exists()


# --------------------------------------------------------------------------------------------------------------------
# Folders that cannot be written
# --------------------------------------------------------------------------------------------------------------------

IN_THE_WAY = ("checkpoints", "samples", "snapshots", ".hydra", "run.json/", "metrics.csv/", "train.log/", ".run.lock/")


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_what_is_in_the_way_of_a_run_s_files_is_found_before_it_starts(tmp_path, name):
    folder = tmp_path / "run"
    (folder / name).parent.mkdir(exist_ok=True)
    if name.endswith("/"):
        (folder / name).mkdir()
    else:
        (folder / name).write_text("mine")
    reason = "Is a directory" if name.endswith("/") else "Not a directory"
    with (
        pytest.raises(ConfigError, match=rf"^hydra\.run\.dir=.*: .*{name.strip('/')} cannot be written: {reason}; "),
        recorded(folder, "train", [], number=None, seed=0, keep_mistakes=False),
    ):
        pytest.fail("the run started")
    assert [path.name for path in folder.iterdir() if path.name != ".run.lock"] in ([name.strip("/")], [])


@pytest.mark.parametrize("folder", ["", "checkpoints"])
@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_folder_is_found_before_the_run_starts(tmp_path, monkeypatch, folder, code):
    """As root no permission is missing, so the system's refusal is imitated."""
    (tmp_path / folder).mkdir(exist_ok=True)
    opened = Path.open

    def refuse(path, *arguments, **options):
        if path.parent == tmp_path / folder and path.name != run_record.LOCK:
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with (
        pytest.raises(ConfigError, match=rf"^hydra\.run\.dir=.* cannot be written: {os.strerror(code)}; "),
        recorded(tmp_path, "train", [], number=None, seed=0),
    ):
        pytest.fail("the run started")


def test_a_full_disk_does_not_keep_a_run_from_starting(tmp_path, monkeypatch):
    def refuse(path, *arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with recorded(tmp_path, "train", [], number=None, seed=0):
        started = True
    assert started


@pytest.mark.parametrize("program", ["train.py data=moons network=mlp", "evaluate.py checkpoint=nowhere.ckpt"])
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder that nobody can write into")
def test_a_program_names_the_folder_that_it_cannot_write(program):
    name, *arguments = program.split()
    command = [sys.executable, str(ROOT / name), *arguments, "hydra.run.dir=/proc/self"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ConfigError: hydra.run.dir=/proc/self: ")
    assert len(done.stderr.splitlines()) == 1
