"""run.json, the record in the folder of every run: its overrides, its provenance, its result and how it ended."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import filelock

from diffusion_fw.files import (
    FULL,
    atomic_write,
    guarded,
    hard_linked,
    open_regular,
    open_to_append,
    remove_unfinished,
    unfinished,
)
from diffusion_fw.registry import ConfigError
from diffusion_fw.runs.provenance import provenance
from diffusion_fw.training.os_errors import log_os_errors, warn_once

NAME, LOCK, DIGEST = "run.json", ".run.lock", "sha256"
LARGEST = 16 << 20
"""Bytes; a record has some ten thousand."""

FIRST_FILES = (".hydra", "*.log", NAME, LOCK, "git-*.diff")
"""The files that every run writes before it builds anything."""

FOLDERS = ("checkpoints", "samples", "snapshots", ".hydra", ".hydra_resume")
FILES = (NAME, LOCK, "metrics.csv", "train.log", "sample.log", "evaluate.log")
"""What runs write again where it is there already."""

RUNNING, FINISHED, FAILED, INTERRUPTED = "running", "finished", "failed", "interrupted"
"""A record that says `running` while no process runs belongs to a run that was killed."""

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
HOW = ("sweep=", "launcher=", "hydra", "resume=", "explain=")
"""The overrides that say how a run is started, not which run it is."""


class InUseError(ConfigError):
    """Another run is using the folder."""


class Result(NamedTuple):
    """What a run measured: the metric's full name, its value (lower is better), and that of real data where known."""

    name: str
    value: float
    floor: float | None = None


class Outcome:
    """What a run reports to its record."""

    result: Result | None = None


def choices_of(overrides: Iterable[str]) -> tuple[str, ...]:
    """The overrides that say which run it is, sorted: two runs are the same if these are equal."""
    return tuple(sorted(override for override in overrides if not override.lstrip("+~").startswith(HOW)))


def is_first_process() -> bool:
    """Whether this process writes the record, by the ranks that launchers of processes set."""
    return all(os.environ.get(key, "0") == "0" for key in RANKS)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of the run in ``folder``, or None if there is none or it is damaged.

    It is damaged if its hash is not that of its other values. Version 0.1.0 wrote no hash.
    """
    try:
        with open_regular(folder / NAME) as file:
            content = file.read(LARGEST + 1)
        record = json.loads(content) if len(content) <= LARGEST else None
    except (OSError, ValueError, RecursionError):
        return None
    if not _is_record(record) or record.pop(DIGEST, digest := _digest(record)) != digest:
        return None
    return record


def _digest(record: Mapping[str, Any]) -> str:
    values = {key: value for key, value in record.items() if key != DIGEST}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _is_record(record: Any) -> TypeGuard[dict[str, Any]]:
    """Whether every value that programs read from a record has its type."""
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


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _all(items: Any, kind: type) -> bool:
    return isinstance(items, list) and all(isinstance(item, kind) for item in items)


@contextlib.contextmanager
def recorded(
    folder: Path, program: str, overrides: Sequence[str], *, number: int | None, seed: int, keep_mistakes: bool = True
) -> Iterator[Outcome]:
    """Keep the run.json of a run: `running` while the block runs, then how it ended.

    A run that is resumed, or whose sweep is started again, gets one more entry in ``attempts``; its ``overrides`` stay
    those of its start. Raises InUseError if another process is using the folder, which is left as it is. Unless
    ``keep_mistakes``, a ConfigError leaves no folder if it was this run's first.
    """
    if not is_first_process():
        yield Outcome()
        return
    with locked(folder):
        check_writable(folder)
        first = not (folder / NAME).exists()
        try:
            yield from _keep_record(folder, program, overrides, number, seed)
        except ConfigError:
            if first and not keep_mistakes:
                _discard(folder)
            raise


def _discard(folder: Path) -> None:
    """Remove a folder that holds no more than FIRST_FILES, and the folders above it that are then empty."""
    first = {path.name for kind in FIRST_FILES for path in folder.glob(kind)}
    if not folder.is_dir() or not {path.name for path in folder.iterdir()} <= first:
        return
    shutil.rmtree(folder, ignore_errors=True)
    for above in folder.absolute().parents:
        if Path.cwd() not in above.parents or any(above.iterdir()):
            return
        above.rmdir()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder until the process ends, in whatever way; not on a file system without locks.

    What a killed run has left unfinished there is removed. If the folder is removed and another run starts in a new one
    of its name, that run holds the lock of the new one, and this run's writes into it fail.

    Raises InUseError if another process has locked it, and ConfigError if its lock file is a hard link: some versions
    of filelock empty the file that they lock.
    """
    if hard_linked(folder / LOCK):
        raise ConfigError(
            f"{folder / LOCK} is a hard link to another file, which the run would change; remove it if no run is using "
            "this folder"
        )
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        # filelock raises this for a lock file that cannot be opened, too.
        check_writable(folder, () if (folder / LOCK).exists() else ("",), (LOCK,))
        raise InUseError(
            f"{folder} is in use by another run, on this machine or on another; wait until it ends, or give another "
            "hydra.run.dir or hydra.sweep.dir"
        ) from None
    except (OSError, NotImplementedError) as error:
        check_writable(folder)
        warn_once(f"locking {folder}", error, "the run continues, and nothing keeps another run out of its folder")
    try:
        with guarded(folder / LOCK) if lock.is_locked else contextlib.nullcontext():
            for place in ("", *FOLDERS) if lock.is_locked else ():
                remove_unfinished(folder / place)
            yield
    finally:
        lock.release()


def check_writable(folder: Path, folders: Iterable[str] = ("", *FOLDERS), files: Iterable[str] = FILES) -> None:
    """ConfigError where a run cannot write into ``folder``: it is read-only, or a file or folder is in the way.

    It is tried, as the permissions say little for root and on network file systems. A full disk may have room later.
    """
    for place in (folder / name for name in folders):
        if place.exists():
            _try_to_write(folder, place, _make_and_remove)
    for path in (folder / name for name in files):
        if path.exists():
            _try_to_write(folder, path, lambda path: open_to_append(path).close())


def _make_and_remove(place: Path) -> None:
    path = unfinished(place / "try")
    path.open("xb").close()
    path.unlink()


def _try_to_write(folder: Path, place: Path, attempt: Callable[[Path], None]) -> None:
    try:
        attempt(place)
    except OSError as error:
        if error.errno not in FULL:
            raise ConfigError(
                f"hydra.run.dir={folder}: {place} cannot be written: {error.strerror}; remove what is in the way, or "
                "give another hydra.run.dir or hydra.sweep.dir"
            ) from None


def _keep_record(
    folder: Path, program: str, overrides: Sequence[str], number: int | None, seed: int
) -> Iterator[Outcome]:
    outcome = Outcome()
    began, before = time.time(), read_record(folder)
    resumed = any(override.lstrip("+~").startswith("resume=") for override in overrides)
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
        then = "the run continues; its end will be recorded" if status == RUNNING else "the run's end is not recorded"
        with log_os_errors(f"writing {folder / NAME}", then), atomic_write(folder / NAME) as file:
            name, value, floor = outcome.result or (None, math.nan, None)
            result = {"metric": name, "result": _finite(value), "floor": _finite(floor)}
            whole = {**record, **result, **ended, "attempts": [*earlier, last]}
            file.write(json.dumps({**whole, DIGEST: _digest(whole)}, indent=1, allow_nan=False).encode())

    write(RUNNING, None)
    try:
        yield outcome
    except Exception as error:
        write(FAILED, f"{type(error).__name__}: {error}")
        raise
    except BaseException as error:
        write(INTERRUPTED, f"{type(error).__name__}, exit code {getattr(error, 'code', 130)}")
        raise
    write(FINISHED, None)


def provenance_of(folder: Path) -> Mapping[str, Any]:
    """The provenance, or nothing if it cannot be written: that is no reason to end a run."""
    with log_os_errors(f"writing into {folder}", "the run continues; its record lacks the provenance"):
        return provenance(folder)
    return {}


def _at(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
