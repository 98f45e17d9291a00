"""The sweeps of `sweep=basic`: every combination of the listed values, none hindered by another's failure."""

from __future__ import annotations

import csv
import io
import itertools
import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from diffusion_fw.files import atomic_write
from diffusion_fw.pictures.sweep_jobs import jobs_over, jobs_picture
from diffusion_fw.runs.record import FAILED, FINISHED, NAME, RUNNING, InUseError, choices_of, read_record
from diffusion_fw.training.os_errors import log_os_errors

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]

SHOWN = 60
LONGEST_ERROR = 400
"""Characters in a table; a job's log and record hold the whole."""
MISSING = "not run"
KILLED = "killed"
IN_USE = "in use"
"""Another process runs it."""
SEED = "seed"


@dataclass
class Job:
    """One combination of a sweep."""

    number: int
    words: list[str]
    """What Hydra composes it from."""
    values: dict[str, str]
    """The swept keys."""
    folder: Path | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    before: bool = False
    """Whether it was finished when this sweep began."""

    @property
    def outcome(self) -> str:
        status = str(self.record.get("status", MISSING))
        return KILLED if status == RUNNING else status

    @property
    def result(self) -> float:
        """What it returned; NaN where there is none."""
        value = self.record.get("result")
        return math.nan if value is None else float(value)

    @property
    def metric(self) -> str:
        """The metric's name without its last part, the weights, which a sweep may mean to compare."""
        name = str(self.record.get("metric") or "")
        return name.rpartition("/")[0] or name

    @property
    def error(self) -> str:
        return str(self.record.get("error") or "")

    @property
    def seconds(self) -> float:
        return sum(attempt.get("seconds", 0.0) for attempt in self.record.get("attempts", []))


def sweep(config: DictConfig, arguments: list[str], config_loader: Any, launch: Launch) -> list[float]:
    """Run every job that has not finished in the sweep's folder before; the results in the jobs' order.

    A job that fails leaves its error in its record and in the table, and the others run. A job of an earlier, ended
    sweep of the same folder is known by its overrides. Raises an error at the end where a job did not finish.
    """
    folder = Path(config.hydra.sweep.dir)
    overrides = OverridesParser.create(config_loader=config_loader).parse_overrides(arguments)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "multirun.yaml")
    jobs = planned(overrides, folder)
    missing = [job for job in jobs if not job.before]
    console = Console()
    if len(missing) < len(jobs):
        console.print(f"{len(jobs) - len(missing)} of {len(jobs)} jobs have finished before", highlight=False)
    try:
        if missing:
            _launch(missing, launch)
    finally:
        # Also where a signal ends the sweep.
        look(jobs, folder)
        print_sweep(console, jobs, folder)
        with log_os_errors(f"writing into {folder}", "each job's folder holds its record"):
            write_results(jobs, folder)
    if unfinished := [job for job in jobs if job.outcome != FINISHED]:
        numbers = ", ".join(str(job.number) for job in unfinished)
        raise CompactHydraException(f"{len(unfinished)} of {len(jobs)} jobs did not finish: {numbers}")
    return [job.result for job in jobs]


def combinations(overrides: Iterable[Override]) -> list[tuple[list[str], dict[str, str]]]:
    """(all words, the swept keys' values) of every job; the last of several words of one key holds."""
    options: dict[str, list[str]] = {}
    swept: dict[str, bool] = {}
    for override in overrides:
        key, sweeps = override.get_key_element(), override.is_sweep_override()
        values = override.sweep_string_iterator() if sweeps else [override.get_value_element_as_str()]
        options[key], swept[key] = list(values), sweeps
    return [
        (
            [f"{key}={value}" for key, value in zip(options, values, strict=True)],
            {key: value for key, value in zip(options, values, strict=True) if swept[key]},
        )
        for values in itertools.product(*options.values())
    ]


def planned(overrides: Iterable[Override], folder: Path) -> list[Job]:
    """The jobs of a sweep, each with the number it has in the folder, or with the next that is free."""
    known = records(folder)
    free = itertools.count(1 + max((record["job"] for _, record in known.values()), default=-1))
    jobs: dict[tuple[str, ...], Job] = {}
    for words, values in combinations(overrides):
        which = choices_of(words)
        if which in jobs:
            continue
        place, record = known.get(which, (None, {}))
        number = record["job"] if record else next(free)
        done = record.get("status") == FINISHED
        jobs[which] = Job(number, [*words, f"hydra.sweeper.job={number}"], values, place, record, done)
    return sorted(jobs.values(), key=lambda job: job.number)


def records(folder: Path) -> dict[tuple[str, ...], tuple[Path, dict[str, Any]]]:
    """The folder and the record of every job that a sweep has begun in ``folder``."""
    found = {}
    for path in sorted(folder.rglob(NAME)):
        record = read_record(path.parent)
        if record and isinstance(record.get("job"), int):
            found[choices_of(record["overrides"])] = path.parent, record
    return found


def _launch(jobs: Sequence[Job], launch: Launch) -> None:
    """Run them; what a launcher says of one that left no record becomes its record."""
    try:
        results = launch([job.words for job in jobs], jobs[0].number)
    except Exception as error:  # of the launcher, as when a worker is killed: the jobs' own are in what it returns
        for job in jobs:
            job.record = _of_error(error)
        return
    for job, result in zip(jobs, results, strict=True):
        if isinstance(raised := result._return_value, Exception):
            job.record = _of_error(raised)


def _of_error(error: Exception) -> dict[str, Any]:
    status = IN_USE if isinstance(error, InUseError) else FAILED
    return {"status": status, "error": f"{type(error).__name__}: {error}"}


def look(jobs: Iterable[Job], folder: Path) -> None:
    """Give each job the record that it left."""
    known = records(folder)
    for job in jobs:
        place, record = known.get(choices_of(job.words), (None, None))
        if place and record and job.outcome != IN_USE:
            job.folder, job.record = place, {**record, "error": record.get("error") or job.error}


# --------------------------------------------------------------------------------------------------------------------
# What a sweep leaves
# --------------------------------------------------------------------------------------------------------------------


def write_results(jobs: Sequence[Job], folder: Path) -> None:
    """Write jobs.csv and jobs.png into the sweep's folder."""
    keys = list(jobs[0].values)
    rows: list[list[Any]] = [["job", "outcome", "metric", "result", "seconds", *keys, "folder", "error"]]
    for job in jobs:
        place = job.folder.relative_to(folder) if job.folder else ""
        result = job.result if math.isfinite(job.result) else ""
        values = [job.number, job.outcome, job.record.get("metric") or "", result, job.seconds]
        rows.append([*values, *job.values.values(), place, job.error])
    write_csv(folder / "jobs.csv", rows)
    if any(math.isfinite(job.result) for job in jobs):
        _draw(jobs, folder / "jobs.png")


def _draw(jobs: Sequence[Job], path: Path) -> None:
    """Over the swept number of most values, if there is one; else a line for each setting."""
    steps = {key: values for key in jobs[0].values if key != SEED and len(values := _numbers(jobs, key)) > 2}
    if not steps:
        marks = {label or "all": [job.result for job in group] for label, group in settings(jobs, SEED).items()}
        jobs_picture(path, marks, measured_by(jobs))
        return
    key = max(steps, key=lambda name: len(steps[name]))
    lines = {
        label: {x: [job.result for job in group if float(job.values[key]) == x] for x in sorted(_numbers(group, key))}
        for label, group in settings(jobs, SEED, key).items()
    }
    jobs_over(path, key, lines, measured_by(jobs))


def _numbers(jobs: Iterable[Job], key: str) -> set[float]:
    """The values of a key; none where one is no number."""
    try:
        return {float(job.values[key]) for job in jobs}
    except ValueError:
        return set()


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write a table that is whole at any moment."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def measured_by(jobs: Iterable[Job]) -> str:
    """The metric that all jobs share; numbers of different names do not compare."""
    names = {job.metric for job in jobs if job.metric}
    return names.pop() if len(names) == 1 else "result"


def settings(jobs: Iterable[Job], *left_out: str) -> dict[str, list[Job]]:
    """The jobs by the values of what is swept, some keys left out."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        label = " ".join(f"{key}={value}" for key, value in job.values.items() if key not in left_out)
        found.setdefault(label, []).append(job)
    return found


def print_sweep(console: Console, jobs: Sequence[Job], folder: Path) -> None:
    """Print the jobs, their errors, and for a sweep over seeds the mean of each setting."""
    metric, keys = measured_by(jobs), list(jobs[0].values)
    measured = any(math.isfinite(job.result) for job in jobs)
    plural = "s" * (len(jobs) != 1)
    title = f"{len(jobs)} job{plural}" if len(jobs) <= SHOWN else f"{SHOWN} of {len(jobs)} jobs; all are in jobs.csv"
    table = Table("job", *_columns(keys), *_columns([metric] if measured else []), "outcome", "time", title=title)
    for job in jobs[:SHOWN]:
        reached = [_number(job.result)] if measured else []
        outcome = f"{job.outcome} before" if job.before else job.outcome
        table.add_row(str(job.number), *map(Text, job.values.values()), *reached, outcome, f"{job.seconds:,.0f} s")
    console.print(table)
    if measured and any(len(group) > 1 for group in settings(jobs, SEED).values()):
        console.print(_over_seeds(jobs, metric))
    print_errors(console, "job", {job.number: job.error for job in jobs if job.error})
    for difference in differences(jobs):
        console.print(f"not alike: {difference}", markup=False, highlight=False, soft_wrap=True)
    pictures = "jobs.png, " if measured else ""
    place = f"[bold]{escape(str(folder))}[/bold]"
    console.print(f"everything is in {place}: {pictures}jobs.csv, a folder for each job", soft_wrap=True)
    if any(job.outcome != FINISHED for job in jobs):
        again = f"hydra.sweep.dir={folder}"
        console.print(f"to run what is missing: the same command with {again}", markup=False, soft_wrap=True)


def _over_seeds(jobs: Iterable[Job], metric: str) -> Table:
    columns = _columns(["setting", "seeds", f"{metric}, mean", "standard deviation"])
    table = Table(*columns, title="over the seeds")
    for label, group in settings(jobs, SEED).items():
        values = [job.result for job in group if math.isfinite(job.result)]
        mean = statistics.fmean(values) if values else math.nan
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        table.add_row(Text(label or "all"), str(len(values)), _number(mean), _number(spread))
    return table


def _columns(names: Iterable[str]) -> list[Column]:
    """Headings shown as they are, over values that differ at their ends, as paths do: never cut."""
    return [Column(Text(name), overflow="fold") for name in names]


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else ""


def print_errors(console: Console, what: str, errors: Mapping[int, str]) -> None:
    """The beginning of each error once, after the numbers of those that have it."""
    numbers: dict[str, list[str]] = {}
    for number in sorted(errors):
        numbers.setdefault(textwrap.shorten(errors[number], LONGEST_ERROR, placeholder=" ..."), []).append(str(number))
    for error, of in numbers.items():
        console.print(f"{what} {', '.join(of)}: {error}", markup=False, highlight=False, soft_wrap=True)


def differences(jobs: Iterable[Job]) -> list[str]:
    """What jobs, or the attempts at one, do not share of metric, code, plugins and packages, in words."""
    ended = [job for job in jobs if job.record.get("attempts")]
    found = _unlike("metric", {job.number: frozenset({job.metric}) for job in ended if job.metric})
    for what, describe in (("code", _code), ("plugins", _pairs("plugins")), ("packages", _pairs("packages"))):
        attempts = {job.number: list(map(describe, job.record["attempts"])) for job in ended}
        found += _unlike(what, {number: states[-1] for number, states in attempts.items()})
        if changed := [str(number) for number, states in attempts.items() if len(set(states)) > 1]:
            found.append(f"{what} of job {', '.join(changed)}, which went on with other {what} than it began with")
    return found


def _unlike(what: str, states: Mapping[int, frozenset[str]]) -> list[str]:
    groups: dict[frozenset[str], list[str]] = {}
    for number, state in states.items():
        groups.setdefault(state, []).append(str(number))
    if len(groups) < 2:
        return []
    common = frozenset.intersection(*groups)
    parts = (f"jobs {', '.join(of)}: {', '.join(sorted(own - common)) or '-'}" for own, of in groups.items())
    return [f"{what} of {'; '.join(parts)}"]


def _code(attempt: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(
        f"{str(item.get('commit'))[:10]}{' with ' + str(item['diff']) if item.get('diff') else ''}"
        for item in attempt.get("repositories", [])
    )


def _pairs(key: str) -> Callable[[Mapping[str, Any]], frozenset[str]]:
    return lambda attempt: frozenset(f"{name} {version[:12]}" for name, version in attempt.get(key, {}).items())
