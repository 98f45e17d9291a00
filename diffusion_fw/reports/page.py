"""The page: one HTML file with everything in it, which asks for nothing from anywhere.

Text of runs passes through jinja2's escaping, or through JSON in which `<` cannot stand; the script sets it as text. A
policy in the page (Content-Security-Policy) lets the browser run its own two scripts alone, by their hashes, and load
nothing.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime
import functools
import gzip
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import diffusion_fw
from diffusion_fw.files import atomic_write
from diffusion_fw.reports.comparison import Comparison, compare
from diffusion_fw.reports.pictures import MOST, evenly, galleries
from diffusion_fw.reports.reading import Run, read_runs

NAME = "report.html"
LARGEST_PAGE = 6_000_000
"""Bytes. Pictures take what the rest leaves of it."""
MOST_POINTS, FEWEST_POINTS, ALL_POINTS = 300, 30, 12_000
"""Points of a curve, and of one curve of every run together."""


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written."""

    path: Path
    runs: int
    size: int
    pictures_left_out: int

    def describe(self) -> str:
        plural = "s" * (self.runs != 1)
        said = f"{self.runs} run{plural} on one page of {self.size / 1e6:.1f} MB: {self.path}"
        left_out = self.pictures_left_out
        return f"{said}; {left_out} pictures had no room in it" if left_out else said


def write_report(folders: Sequence[Path], path: Path | None = None) -> Written:
    """Compare the runs in ``folders`` on one page at ``path``, by default report.html in the first folder.

    Raises ConfigError for a folder that holds no run.
    """
    runs = read_runs(folders)
    path = path or folders[0] / NAME
    title = " and ".join(folder.absolute().name or os.fspath(folder) for folder in folders[:3])
    title += f" and {len(folders) - 3} more" if len(folders) > 3 else ""
    text, left_out = render(title, runs)
    content = text.encode(errors="backslashreplace")
    with atomic_write(path) as file:
        file.write(content)
    return Written(path, len(runs), len(content), left_out)


def render(title: str, runs: Sequence[Run]) -> tuple[str, int]:
    """The page, and the number of pictures that had no room in it."""
    comparison = compare(runs)
    scripts = [_asset("plotly-basic.min.js.gz"), _asset("page.js")]
    environments = _environments(runs)
    statuses = collections.Counter(run.status for run in runs)
    context: dict[str, Any] = {
        "title": title,
        "runs": runs,
        "comparison": comparison,
        "data": _data(runs, comparison),
        "galleries": [],
        "left_out": 0,
        "counts": ", ".join(f"{count} {status}" for status, count in statuses.items()),
        "errors": _errors(runs),
        "differing_packages": _differing_packages(environments),
        "environments": environments,
        "diffs": _diffs(runs),
        "written": datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        "version": diffusion_fw.__version__,
        "style": Markup(_asset("page.css")),
        "scripts": [Markup(script) for script in scripts],
        "policy": " ".join(f"'sha256-{_sha256(script)}'" for script in scripts),
    }
    template = _environment().get_template("page.html")
    # Pictures may add notes to the runs, so that the notes count in the size after the pictures are read.
    size = len(template.render(context).encode(errors="backslashreplace"))
    shown, left_out = galleries(runs, max(0, LARGEST_PAGE - size - 2_000 * len(runs)))
    context |= {"galleries": shown, "left_out": left_out}
    return template.render(context), left_out


@functools.cache
def _asset(name: str) -> str:
    content = (resources.files("diffusion_fw.reports") / "assets" / name).read_bytes()
    return (gzip.decompress(content) if name.endswith(".gz") else content).decode()


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("diffusion_fw.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    # A browser breaks a line after <wbr>: titles such as heldout/loss would widen their columns.
    environment.filters["breakable"] = lambda text: Markup("<wbr>").join(re.split(r"(?<=/)", text))
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment


# --------------------------------------------------------------------------------------------------------------------
# What the script draws
# --------------------------------------------------------------------------------------------------------------------


def _data(runs: Sequence[Run], comparison: Comparison) -> dict[str, Any]:
    points = max(FEWEST_POINTS, min(MOST_POINTS, ALL_POINTS // len(runs)))
    return {
        "columns": [dataclasses.asdict(column) for column in comparison.columns],
        "settings": [{"label": row.label, "runs": row.runs} for row in comparison.settings],
        "runs": [
            {
                "name": run.name,
                "seed": run.seed,
                "setting": row.setting,
                "model": model,
                "sampler": sampler,
                "curves": {name: _drawn(thinned(curve, points)) for name, curve in run.curves.items()},
                "snr": [[step, *_drawn(curve)] for step, curve in evenly(list(run.by_log_snr.items()), MOST)],
                "measured": [
                    {
                        "metric": item.metric,
                        "value": item.value,
                        "higher": item.higher_is_better,
                        "floor": item.floor,
                        "interval": item.interval,
                        "costs": {**item.costs, **item.sampler_steps},
                    }
                    for item in run.measured
                ],
                "cells": [cell.value for cell in row.cells],
            }
            for run, row, (model, sampler) in zip(runs, comparison.runs, comparison.series, strict=True)
        ],
    }


def thinned(points: Sequence[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """At most ``count`` points: the smallest and the largest value of each of equal parts, so that no peak is lost."""
    if len(points) <= count:
        return list(points)
    found = []
    parts = count // 2
    for part in range(parts):
        own = points[part * len(points) // parts : (part + 1) * len(points) // parts]
        ends = {min(own, key=lambda point: point[1]), max(own, key=lambda point: point[1])}
        found += sorted(ends)
    found[-1] = points[-1]
    return found


def _drawn(points: Sequence[tuple[float, float]]) -> list[list[float]]:
    """x and y, with as many digits as a picture shows."""
    return [[_rounded(x, 9) for x, _ in points], [_rounded(y, 5) for _, y in points]]


def _rounded(value: float, digits: int) -> float:
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and math.fabs(rounded) < 1e15 else rounded


# --------------------------------------------------------------------------------------------------------------------
# Provenance
# --------------------------------------------------------------------------------------------------------------------


def _errors(runs: Sequence[Run]) -> dict[str, list[int]]:
    """The runs that ended with each error."""
    found: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        if run.error:
            found.setdefault(run.error[:600], []).append(index)
    return found


Environments = list[tuple[list[int], Mapping[str, str]]]
"""Sets of packages, each with the runs that had it."""


def _environments(runs: Sequence[Run]) -> Environments:
    found: dict[str, tuple[list[int], Mapping[str, str]]] = {}
    for index, run in enumerate(runs):
        if packages := run.attempts[-1].get("packages") if run.attempts else None:
            found.setdefault(json.dumps(packages, sort_keys=True), ([], packages))[0].append(index)
    return list(found.values())


def _differing_packages(environments: Environments) -> list[str]:
    names = sorted({name for _, packages in environments for name in packages}, key=str.lower)
    return [name for name in names if len({packages.get(name) for _, packages in environments}) > 1]


def _diffs(runs: Sequence[Run]) -> dict[str, tuple[list[int], list[str]]]:
    """The lines of each diff, with the runs that had it; two of one name and different content are told apart."""
    found: dict[str, tuple[list[int], list[str]]] = {}
    for index, run in enumerate(runs):
        for name, text in run.diffs.items():
            key = name if name not in found or found[name][1] == text.splitlines() else f"{name} of {run.name}"
            found.setdefault(key, ([], text.splitlines()))[0].append(index)
    return found
