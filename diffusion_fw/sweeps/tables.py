"""What a sweep reports: its table on the terminal, jobs.csv, jobs.png, and what its jobs do not share."""

from __future__ import annotations

import csv
import io
import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from diffusion_fw.files import atomic_write
from diffusion_fw.pictures.sweep_jobs import jobs_grid, jobs_over, jobs_picture
from diffusion_fw.runs.record import FINISHED
from diffusion_fw.sweeps.jobs import Job

MAX_ROWS = 60
MAX_ERROR = 400
"""Characters of an error in a table; the job's log and record hold all of it."""
SEED = "seed"


# --------------------------------------------------------------------------------------------------------------------
# Files
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


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Replace a table in one step, so that it is whole at any moment."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _draw(jobs: Sequence[Job], path: Path) -> None:
    """Draw over the swept number with the most values, two swept groups as a grid, others as a line each."""
    metric, floor = shared_metric(jobs), shared_floor(jobs)
    swept = [key for key in jobs[0].values if key != SEED and len({job.values[key] for job in jobs}) > 1]
    axes = {key: values for key in swept if len(values := _numbers(jobs, key)) > 2}
    if not axes and len(swept) == 2:
        cells: dict[tuple[str, str], list[float]] = {}
        for job in jobs:
            cells.setdefault((job.values[swept[0]], job.values[swept[1]]), []).append(job.result)
        jobs_grid(path, (swept[0], swept[1]), cells, metric)
        return
    if not axes:
        alike = [key for key in jobs[0].values if key not in swept]
        own = {label: [job.result for job in group] for label, group in by_setting(jobs, *alike, SEED).items()}
        key = swept[0] if len(swept) == 1 else ""
        lines = {label.removeprefix(f"{key}=") if key else label or "all": values for label, values in own.items()}
        jobs_picture(path, lines, metric, key, floor)
        return
    key = max(axes, key=lambda name: len(axes[name]))
    curves = {
        label: {x: [job.result for job in group if float(job.values[key]) == x] for x in sorted(_numbers(group, key))}
        for label, group in by_setting(jobs, SEED, key).items()
    }
    jobs_over(path, key, curves, metric, floor)


def _numbers(jobs: Iterable[Job], key: str) -> set[float]:
    """The values of a key, or none if one of them is not a number."""
    try:
        return {float(job.values[key]) for job in jobs}
    except ValueError:
        return set()


# --------------------------------------------------------------------------------------------------------------------
# The terminal
# --------------------------------------------------------------------------------------------------------------------


def print_table(console: Console, jobs: Sequence[Job], folder: Path) -> None:
    """Print the jobs, their errors and their differences; for a sweep over seeds also each setting's mean."""
    metric, keys = shared_metric(jobs), list(jobs[0].values)
    measured = any(math.isfinite(job.result) for job in jobs)
    plural = "s" * (len(jobs) != 1)
    title = f"{len(jobs)} job{plural}"
    if len(jobs) > MAX_ROWS:
        title = f"{MAX_ROWS} of {len(jobs)} jobs; jobs.csv lists them all"
    table = Table("job", *_columns(keys), *_columns([metric] if measured else []), "outcome", "time", title=title)
    for job in jobs[:MAX_ROWS]:
        result = [_number(job.result)] if measured else []
        outcome = f"{job.outcome} earlier" if job.finished_earlier else job.outcome
        table.add_row(str(job.number), *map(Text, job.values.values()), *result, outcome, f"{job.seconds:,.0f} s")
    console.print(table)
    if measured and any(len(group) > 1 for group in by_setting(jobs, SEED).values()):
        console.print(_seed_table(jobs, metric))
    print_errors(console, "job", {job.number: job.error for job in jobs if job.error})
    for difference in differences(jobs):
        console.print(f"warning: {difference}", markup=False, highlight=False, soft_wrap=True)
    files = ["jobs.png"] * measured + ["jobs.csv", "a folder for each job"]
    console.print(f"results in [bold]{escape(str(folder))}[/bold]: {', '.join(files)}", soft_wrap=True)
    if any(job.outcome != FINISHED for job in jobs):
        again = f"to run the unfinished jobs, repeat the command with hydra.sweep.dir={folder}"
        console.print(again, markup=False, soft_wrap=True)


def _seed_table(jobs: Iterable[Job], metric: str) -> Table:
    """Each setting's mean and standard deviation over the seeds."""
    columns = _columns(["setting", "seeds", f"{metric}, mean", "standard deviation"])
    table = Table(*columns, title="over the seeds")
    for label, group in by_setting(jobs, SEED).items():
        values = [job.result for job in group if math.isfinite(job.result)]
        mean = statistics.fmean(values) if values else math.nan
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        table.add_row(Text(label or "all"), str(len(values)), _number(mean), _number(spread))
    return table


def _columns(names: Iterable[str]) -> list[Column]:
    """Columns headed by the names as they are. Values such as paths differ at their ends: wrap them, don't cut."""
    return [Column(Text(name), overflow="fold") for name in names]


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else ""


def print_errors(console: Console, what: str, errors: Mapping[int, str]) -> None:
    """Print the beginning of each error once, with the numbers of all that raised it."""
    numbers: dict[str, list[str]] = {}
    for number in sorted(errors):
        numbers.setdefault(textwrap.shorten(errors[number], MAX_ERROR, placeholder=" ..."), []).append(str(number))
    for error, those in numbers.items():
        console.print(f"{what} {', '.join(those)}: {error}", markup=False, highlight=False, soft_wrap=True)


# --------------------------------------------------------------------------------------------------------------------
# What jobs share
# --------------------------------------------------------------------------------------------------------------------


def shared_metric(jobs: Iterable[Job]) -> str:
    """The metric of all jobs, or "result" if they have several: values of different metrics don't compare."""
    names = {job.metric for job in jobs if job.metric}
    return names.pop() if len(names) == 1 else "result"


def shared_floor(jobs: Iterable[Job]) -> float | None:
    """The floor of all jobs that state one, or None if they state none or several."""
    known = {job.floor for job in jobs if job.floor is not None}
    return known.pop() if len(known) == 1 else None


def by_setting(jobs: Iterable[Job], *left_out: str) -> dict[str, list[Job]]:
    """The jobs grouped by the values of the swept keys that are not left out."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        label = " ".join(f"{key}={value}" for key, value in job.values.items() if key not in left_out)
        found.setdefault(label, []).append(job)
    return found


def differences(jobs: Iterable[Job]) -> list[str]:
    """A sentence for each of metric, code, plugins and packages in which jobs, or attempts at one job, differ."""
    started = [job for job in jobs if job.record.get("attempts")]
    found = _difference("metric", {job.number: frozenset({job.metric}) for job in started if job.metric})
    for what, describe in (("code", _code), ("plugins", _pairs("plugins")), ("packages", _pairs("packages"))):
        attempts = {job.number: list(map(describe, job.record["attempts"])) for job in started}
        found += _difference(what, {number: states[-1] for number, states in attempts.items()})
        if changed := [number for number, states in attempts.items() if len(set(states)) > 1]:
            found.append(f"{_named(changed)} resumed with other {what} than at the start")
    return found


def _difference(what: str, states: Mapping[int, frozenset[str]]) -> list[str]:
    groups: dict[frozenset[str], list[int]] = {}
    for number, state in states.items():
        groups.setdefault(state, []).append(number)
    if len(groups) < 2:
        return []
    common = frozenset.intersection(*groups)
    parts = (f"{_named(group)}: {', '.join(sorted(own - common)) or '-'}" for own, group in groups.items())
    return [f"the jobs differ in {what}; {'; '.join(parts)}"]


def _named(numbers: Sequence[int]) -> str:
    return f"job{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _code(attempt: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(
        f"{str(item.get('commit'))[:10]}{' with ' + str(item['diff']) if item.get('diff') else ''}"
        for item in attempt.get("repositories", [])
    )


def _pairs(key: str) -> Callable[[Mapping[str, Any]], frozenset[str]]:
    return lambda attempt: frozenset(f"{name} {version[:12]}" for name, version in attempt.get(key, {}).items())
