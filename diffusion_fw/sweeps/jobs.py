"""The jobs of a sweep: which there are, which have finished, and how the others are run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn

from diffusion_fw.config import command_line
from diffusion_fw.runs.record import FAILED, FINISHED, NAME, RUNNING, InUseError, choices_of, read_record

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]
"""A Hydra launcher's ``launch``: it takes each job's overrides and the number of the first job."""

MISSING = "not run"
KILLED = "killed"
IN_USE = "in use"
"""Another process is running the job."""


@dataclass
class Job:
    """One combination of a sweep."""

    number: int
    overrides: list[str]
    """What Hydra composes its config from."""
    values: dict[str, str]
    """The value of each swept key."""
    folder: Path | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    finished_earlier: bool = False
    """Whether it had finished when this sweep started."""

    @property
    def outcome(self) -> str:
        status = str(self.record.get("status", MISSING))
        return KILLED if status == RUNNING else status

    @property
    def result(self) -> float:
        """The value that it returned, or NaN."""
        value = self.record.get("result")
        return math.nan if value is None else float(value)

    @property
    def metric(self) -> str:
        """The metric's name without its last part, the weights: a sweep may compare weights."""
        name = str(self.record.get("metric") or "")
        return name.rpartition("/")[0] or name

    @property
    def floor(self) -> float | None:
        """The metric of real data, where the run measured it."""
        value = self.record.get("floor")
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None

    @property
    def error(self) -> str:
        return str(self.record.get("error") or "")

    @property
    def seconds(self) -> float:
        result: float = sum(attempt.get("seconds", 0.0) for attempt in self.record.get("attempts", []))
        return result


def combinations(
    overrides: Iterable[Override], texts: Callable[[Override], Sequence[str]] = command_line.texts
) -> list[tuple[list[str], dict[str, str]]]:
    """(overrides, values of the swept keys) of every job; the last override of a key wins."""
    options: dict[str, Sequence[str]] = {}
    swept: dict[str, bool] = {}
    for override in overrides:
        key = override.get_key_element()
        options[key], swept[key] = texts(override), override.is_sweep_override()
    return [
        (
            [f"{key}={value}" for key, value in zip(options, values, strict=True)],
            {key: value for key, value in zip(options, values, strict=True) if swept[key]},
        )
        for values in itertools.product(*options.values())
    ]


def _spelled_anew(override: Override) -> list[str]:
    """The values as Hydra spells them, and as the records of version 0.1.0 have them."""
    sweeps = override.is_sweep_override()
    return list(override.sweep_string_iterator()) if sweeps else [override.get_value_element_as_str()]


def plan_jobs(overrides: Sequence[Override], folder: Path) -> list[Job]:
    """The jobs of a sweep: those that ``folder`` holds keep their numbers, the others get the next free ones."""
    known = read_records(folder)
    free = itertools.count(1 + max((record["job"] for _, record in known.values()), default=-1))
    jobs: dict[tuple[str, ...], Job] = {}
    earlier = combinations(overrides, _spelled_anew)
    for (own, values), (former, _) in zip(combinations(overrides), earlier, strict=True):
        choices = choices_of(own)
        if choices in jobs:
            continue
        place, record = known.pop(choices, None) or known.pop(choices_of(former), None) or (None, {})
        number = record["job"] if record else next(free)
        finished = record.get("status") == FINISHED
        jobs[choices] = Job(number, [*own, f"hydra.sweeper.job={number}"], values, place, record, finished)
    return sorted(jobs.values(), key=lambda job: job.number)


def read_records(folder: Path) -> dict[tuple[str, ...], tuple[Path, dict[str, Any]]]:
    """The folder and the record of every job that was started in ``folder``, by its choices."""
    found = {}
    for path in sorted(folder.rglob(NAME)):
        record = read_record(path.parent)
        if record and isinstance(record.get("job"), int):
            found[choices_of(record["overrides"])] = path.parent, record
    return found


def read_results(jobs: Iterable[Job], folder: Path) -> None:
    """Give each job the record that its run wrote."""
    known = read_records(folder)
    for job in jobs:
        place, record = known.get(choices_of(job.overrides), (None, None))
        if place and record and job.outcome != IN_USE:
            job.folder, job.record = place, {**record, "error": record.get("error") or job.error}


def launch_jobs(jobs: Sequence[Job], launch: Launch) -> None:
    """Run the jobs; the error of one that could not write a record becomes its record."""
    try:
        results = launch([job.overrides for job in jobs], jobs[0].number)
    except Exception as error:  # the launcher's own, such as a killed worker: a job's error is in its result
        for job in jobs:
            job.record = _failure(error)
        return
    for job, result in zip(jobs, results, strict=True):
        if isinstance(raised := result._return_value, Exception):
            job.record = _failure(raised)


def _failure(error: Exception) -> dict[str, Any]:
    status = IN_USE if isinstance(error, InUseError) else FAILED
    return {"status": status, "error": f"{type(error).__name__}: {error}"}
