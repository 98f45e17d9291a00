"""What differs between runs, what came out, and its spread over the seeds: the table of the page."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_fw.reports.reading import Run, significant

SEED, STEPS, MODEL = "seed", "sampler.steps", "model"
HOW = ("hydra", "resume", "explain", "launcher", "sweep", "num_workers", "device", "npz")
"""Keys that say how a run is started, not what it is."""
COSTS = ("evaluations", "seconds per sample", "seconds")
"""The costs that are shown before the reader chooses."""
WRITING = ("callbacks", "logger", "trainer.log_every_n_steps")
"""Keys that say what a run writes and how often, not what it is."""
SHOWN = 8
"""Columns of each kind that are shown before the reader chooses."""


@dataclass(frozen=True)
class Cell:
    """A cell of the table: its text, and its number if it has one."""

    text: str = ""
    value: float | None = None
    best: bool = False

    @property
    def sort(self) -> str:
        return "" if self.value is None else repr(self.value)


@dataclass(frozen=True)
class Column:
    """A column of the table; ``better`` is "lower" or "higher" where values of different runs can be ranked."""

    title: str
    kind: str
    shown: bool
    numeric: bool
    better: str = ""


@dataclass(frozen=True)
class Row:
    """A run, or a setting with all of its seeds; ``setting`` is the setting's number."""

    label: str
    runs: Sequence[int]
    setting: int
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Comparison:
    """The table: a row for each run, and a row for each setting with means over its seeds."""

    columns: Sequence[Column]
    runs: Sequence[Row]
    settings: Sequence[Row]
    series: Sequence[tuple[str, str]]
    """(model, sampler) of each run: what stays the same while only the number of steps changes."""


def differing_keys(configs: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys in which runs of one program differ.

    A key counts if runs that have it differ in it, or if it is missing where the group's component is the same. The
    keys of a component that only some runs have say nothing that its name does not say.
    """
    keys = dict.fromkeys(key for config in configs for key in config)
    found = []
    for key in keys:
        top, _, _ = key.partition(".")
        if top in HOW:
            continue
        having = [config for config in configs if key in config]
        components = {config.get(top) for config in having}
        lacking = (config for config in configs if key not in config and config.get(top) in components)
        if len({config[key] for config in having}) > 1 or any(lacking):
            found.append(key)
    return found


def compare(runs: Sequence[Run]) -> Comparison:
    """The table of these runs."""
    folders = {os.path.realpath(run.folder): index for index, run in enumerate(runs)}
    own = [folders.get(_folder_of_model(run)) for run in runs]
    values = [_values(run, None if model is None else runs[model].name) for run, model in zip(runs, own, strict=True)]
    programs: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        programs.setdefault(run.program, []).append(index)
    swept = {override.partition("=")[0].lstrip("+~") for run in runs for override in run.overrides}

    def rank(key: str) -> tuple[bool, bool, bool, bool]:
        """The place of a key: what the command lines state comes first, what a run writes comes last."""
        return key != MODEL, key.startswith(WRITING), key == SEED, key not in swept

    keys = {
        program: sorted(differing_keys([values[index] for index in indices]), key=rank)
        for program, indices in programs.items()
    }
    evaluated = sorted({model for model in own if model is not None})
    among = sorted(differing_keys([values[model] for model in evaluated]), key=rank)
    models = {model: _label(values[model], among) or runs[model].name for model in evaluated}
    for place, model in enumerate(own):
        if model is not None:
            values[place][MODEL] = models[model]
    for program, indices in programs.items():
        if any(own[index] is not None for index in indices):
            keys[program] = [MODEL, *(key for key in keys[program] if key != "checkpoint")]
    shared = list(dict.fromkeys(key for found in keys.values() for key in found))
    order = sorted(shared, key=rank)
    settings: dict[tuple[str, ...], list[int]] = {}
    for index, run in enumerate(runs):
        choice = tuple(values[index].get(key, "") for key in order if key != SEED)
        settings.setdefault((run.program, *choice), []).append(index)
    results = _results(runs)
    records = [_of_record(run) for run in runs]
    columns = _columns(records, values, order, swept, results)
    best = {
        name: (max if better == "higher" else min)(column.values())
        for name, (better, column) in results.items()
        if better and len(column) > 1
    }

    def run_cell(column: Column, index: int) -> Cell:
        if column.kind == "config":
            return _config_cell(values[index].get(column.title, ""))
        if column.kind == "record":
            return Cell(records[index][column.title])
        value = results[column.title][1].get(index)
        return Cell() if value is None else Cell(significant(value), value, best.get(column.title) == value)

    def setting_cell(column: Column, indices: Sequence[int]) -> Cell:
        cells = [run_cell(column, index) for index in indices]
        if column.kind in ("result", "cost"):
            return spread([cell.value for cell in cells if cell.value is not None], len(indices))
        texts = list(dict.fromkeys(cell.text for cell in cells if cell.text))
        if column.title == SEED:
            return Cell(f"{len(texts)} seeds", float(len(texts))) if len(texts) > 1 else cells[0]
        return cells[0] if len(texts) <= 1 else Cell(", ".join(texts[:3]) + (", ..." if len(texts) > 3 else ""))

    numbers = {index: place for place, indices in enumerate(settings.values()) for index in indices}
    labels = [
        _label(values[index], [key for key in order if key in keys[runs[index].program]]) or runs[index].name
        for index, *_ in settings.values()
    ]
    return Comparison(
        columns=columns,
        runs=[
            Row(run.name, [index], numbers[index], [run_cell(column, index) for column in columns])
            for index, run in enumerate(runs)
        ],
        settings=[
            Row(labels[place], indices, place, [setting_cell(column, indices) for column in columns])
            for place, indices in enumerate(settings.values())
        ],
        series=[
            (
                value.get(MODEL, value.get("checkpoint", "")),
                _label(value, keys[run.program], (STEPS, MODEL, "checkpoint")),
            )
            for run, value in zip(runs, values, strict=True)
        ],
    )


def spread(values: Sequence[float], count: int) -> Cell:
    """Mean and standard deviation over the seeds; with how many there are, if some have no value."""
    if not values:
        return Cell()
    mean = statistics.fmean(values)
    text = significant(mean) if len(values) == 1 else f"{significant(mean)} ± {statistics.stdev(values):.2g}"
    return Cell(text if len(values) == count else f"{text} ({len(values)} of {count})", mean)


def _folder_of_model(run: Run) -> str:
    checkpoint = Path(run.config.get("checkpoint", "") or ".")
    folder = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    return os.path.realpath(folder) if run.config.get("checkpoint") else ""


def _values(run: Run, model: str | None) -> dict[str, str]:
    values = dict(run.config)
    values[SEED] = run.seed
    if model is not None and values.get("checkpoint"):
        values["checkpoint"] = model
    return {key: value for key, value in values.items() if value or key != SEED}


def _label(values: Mapping[str, str], keys: Iterable[str], left_out: Sequence[str] = ()) -> str:
    """What a run is, in the keys that differ; the model's own label stands alone."""
    parts = [
        values[key] if key == MODEL else f"{key}={values[key]}"
        for key in keys
        if key not in (SEED, *left_out) and values.get(key)
    ]
    return " ".join(parts[:6])


def _config_cell(text: str) -> Cell:
    try:
        value = float(text)
    except ValueError:
        return Cell(text)
    return Cell(text, value if math.isfinite(value) else None)


Results = dict[str, tuple[str, dict[int, float]]]
"""By the column's title: what is better, and the value of each run that has one."""


def _results(runs: Sequence[Run]) -> Results:
    found: Results = {}

    def add(title: str, better: str, index: int, value: float | None) -> None:
        if value is not None:
            found.setdefault(title, (better, {}))[1][index] = value

    for index, run in enumerate(runs):
        for item in run.measured:
            add(item.metric, "higher" if item.higher_is_better else "lower", index, item.value)
    for index, run in enumerate(runs):
        if run.best:
            add(f"{run.best.metric}, best", "lower", index, run.best.value)
    for index, run in enumerate(runs):
        for name, points in run.curves.items():
            # Rates and speeds are no results.
            better = "lower" if name.endswith("loss") or name == (run.best.metric if run.best else None) else ""
            if better:
                add(f"{name}, last", better, index, points[-1][1])
    for index, run in enumerate(runs):
        for item in run.measured[:1]:
            for name, value in item.costs.items():
                add(name, "", index, value)
        add("seconds", "", index, run.seconds)
        add("steps", "", index, max((points[-1][0] for points in run.curves.values()), default=None))
        speeds = [value for _, value in run.curves.get("train/images_per_second", [])]
        add("images per second", "", index, statistics.median(speeds) if speeds else None)
    return found


def _columns(
    records: Sequence[Mapping[str, str]],
    values: Sequence[Mapping[str, str]],
    keys: Sequence[str],
    swept: set[str],
    results: Results,
) -> list[Column]:
    def numeric(key: str) -> bool:
        return all(_config_cell(value[key]).value is not None for value in values if key in value)

    stated = [key for key in keys if key in swept or key in (MODEL, SEED)] or keys
    config = [Column(key, "config", key in stated[:SHOWN], numeric(key)) for key in keys]
    ranked = [title for title, (better, _) in results.items() if better]
    measured = [Column(title, "result", title in ranked[:SHOWN], True, results[title][0]) for title in ranked]
    costs = [Column(title, "cost", title in COSTS, True) for title in results if title not in ranked]
    programs = {found["program"] for found in records}
    record = [
        Column(title, "record", title == "status" or (title == "program" and len(programs) > 1), False)
        for title in records[0]
        if any(found[title] for found in records)
    ]
    return [*record[:1], *config, *measured, *costs, *record[1:]]


def _of_record(run: Run) -> dict[str, str]:
    last: Mapping[str, Any] = run.attempts[-1] if run.attempts else {}
    repositories = last.get("repositories", [])
    commits = (
        str(item.get("commit") or "")[:10] + (" with changes" if item.get("diff") else "") for item in repositories
    )
    device = next((str(item.line["device"]) for item in run.measured if item.line.get("device")), "")
    return {
        "status": run.status,
        "program": run.program,
        "commit": ", ".join(dict.fromkeys(commits)),
        "began": str(last.get("began") or "")[:25],
        "host": str(last.get("host") or ""),
        "device": device,
        "python": str(last.get("python") or ""),
    }
