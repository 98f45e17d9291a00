"""run.json in the folder of every run: what was asked, what produced it, and how it ended."""

from __future__ import annotations

import datetime
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import filelock

from diffusion_fw.files import atomic_write
from diffusion_fw.registry import ConfigError
from diffusion_fw.runs.provenance import provenance
from diffusion_fw.training.os_errors import log_os_errors, warn_once

NAME, LOCK = "run.json", ".run.lock"
LARGEST = 16 << 20
"""Bytes: a record is some ten thousand."""

RUNNING, FINISHED, FAILED, INTERRUPTED = "running", "finished", "failed", "interrupted"
"""A record that says `running` while nothing runs is that of a run that was killed."""

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
NO_CHOICE = ("sweep=", "launcher=", "hydra", "resume=", "explain=")
"""The words of a command line that say how a run is run, not which it is."""


class InUseError(ConfigError):
    """A folder in which another run goes on."""


class Result(NamedTuple):
    """What a run has measured: the metric's full name, and its value (the lower the better)."""

    name: str
    value: float


class Job:
    """What a run tells its record."""

    result: Result | None = None


def choices_of(words: Iterable[str]) -> tuple[str, ...]:
    """The words that say which run it is, in alphabetical order: two runs are the same where these are."""
    return tuple(sorted(word for word in words if not word.lstrip("+~").startswith(NO_CHOICE)))


def is_first_process() -> bool:
    """Whether this is the one process of a run that writes of it, as the launchers of processes say it."""
    return all(os.environ.get(key, "0") == "0" for key in RANKS)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of the run in ``folder``; None where there is none that can be read."""
    path = folder / NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= LARGEST else None
    except (OSError, ValueError, RecursionError):
        return None
    return record if _is_record(record) else None


def _is_record(record: Any) -> bool:
    """Whether everything that is read of a record has its type."""
    if not isinstance(record, dict) or not _all(record.get("overrides"), str) or not record.get("attempts"):
        return False
    if not isinstance(record.get("result"), (float, int, type(None))) or not _all(record["attempts"], dict):
        return False
    return all(
        isinstance(attempt.get("seconds", 0.0), (float, int))
        and _all(attempt.get("repositories", []), dict)
        and all(
            isinstance(found, dict) and _all(list(found.values()), str)
            for found in (attempt.get(key, {}) for key in ("plugins", "packages"))
        )
        for attempt in record["attempts"]
    )


def _all(items: Any, kind: type) -> bool:
    return isinstance(items, list) and all(isinstance(item, kind) for item in items)


@contextmanager
def recorded(folder: Path, program: str, overrides: Sequence[str], *, number: int | None, seed: int) -> Iterator[Job]:
    """Keep run.json of the job that the block is: `running` from its first line on, and how it ended.

    A run that goes on, as it is resumed or as a sweep is started again, gets one more of ``attempts``; its
    ``overrides`` stay those that it began with. Raises InUseError where another process runs in the folder.
    """
    if not is_first_process():
        yield Job()
        return
    with _alone(folder):
        yield from _kept(folder, program, overrides, number, seed)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A lock on the folder, which ends with the process whatever ends it; none where the file system knows none."""
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise InUseError(
            f"{folder} is in use by a run that goes on, of this machine or another; wait for its end, or give another "
            "hydra.run.dir or hydra.sweep.dir"
        ) from None
    except (OSError, NotImplementedError) as error:
        warn_once(f"locking {folder}", error, "the run goes on, and nothing keeps another one out of its folder")
    try:
        yield
    finally:
        lock.release()


def _kept(folder: Path, program: str, overrides: Sequence[str], number: int | None, seed: int) -> Iterator[Job]:
    job = Job()
    began, before = time.time(), read_record(folder)
    resumed = any(word.lstrip("+~").startswith("resume=") for word in overrides)
    if before is not None and not resumed and choices_of(before["overrides"]) != choices_of(overrides):
        before = None
    attempt = {"overrides": list(overrides), "began": _at(began), "status": RUNNING, **provenance_of(folder)}
    earlier = [] if before is None else before["attempts"]
    record: dict[str, Any] = {
        "program": program,
        "job": number,
        "overrides": list(overrides),
        "seed": seed,
    }
    if before is not None:
        record.update(job=before.get("job"), overrides=before["overrides"])

    def write(status: str, error: str | None) -> None:
        seconds = round(time.time() - began, 3)
        ended = {"status": status, "error": error}
        last = {**attempt, **ended, "seconds": seconds}
        then = "the run goes on, and its end is recorded anew" if status == RUNNING else "its end is not on record"
        with log_os_errors(f"writing {folder / NAME}", then), atomic_write(folder / NAME) as file:
            name, value = job.result or (None, math.nan)
            result = {"metric": name, "result": value if math.isfinite(value) else None}
            whole = {**record, **result, **ended, "attempts": [*earlier, last]}
            file.write(json.dumps(whole, indent=1, allow_nan=False).encode())

    write(RUNNING, None)
    try:
        yield job
    except Exception as error:
        write(FAILED, f"{type(error).__name__}: {error}")
        raise
    except BaseException as error:
        write(INTERRUPTED, f"{type(error).__name__}, exit code {getattr(error, 'code', 130)}")
        raise
    write(FINISHED, None)


def provenance_of(folder: Path) -> Mapping[str, Any]:
    """The provenance; nothing where the folder cannot be written to, which ends no run."""
    with log_os_errors(f"writing into {folder}", "the run goes on; its record does not say what produced it"):
        return provenance(folder)
    return {}


def _at(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
