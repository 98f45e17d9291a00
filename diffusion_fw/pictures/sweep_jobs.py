"""The results of a sweep's jobs: curves over a swept number, or a line of marks for each setting."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import FuncFormatter

from diffusion_fw.pictures.style import PALETTE, QUIET, legend_above, page, scale_x, scale_y, short

HEIGHT, MARGIN, LINE_HEIGHT, MAX_LINES, GRID_HEIGHT = 400, 90, 26, 60, 44


def jobs_picture(
    path: Path, settings: Mapping[str, Sequence[float]], result: str, key: str = "", floor: float | None = None
) -> Path:
    """Draw a line for each setting, the lowest mean on top, with a mark for the result of each seed.

    A bar shows the mean of several results, a cross at the right edge a missing one, a dashed line the floor. ``key``
    says what the names of the settings are values of. At most MAX_LINES settings.
    """
    lines = sorted(settings.items(), key=lambda line: _mean(line[1]))[:MAX_LINES]
    known = [] if floor is None else [floor]
    several = any(len(values) > 1 for _, values in lines)
    with page(path, MARGIN + LINE_HEIGHT * (len(lines) + 1)) as figure:
        axes = figure.add_subplot()
        scale_x(axes, [*known, *(value for _, values in lines for value in values)])
        for height, (_, values) in enumerate(lines):
            finite = _finite(values)
            axes.plot(finite, [height] * len(finite), "o", color=PALETTE[0], alpha=0.7)
            if len(finite) > 1:
                axes.plot([_mean(finite)], [height], "|", color=PALETTE[1], markersize=16, markeredgewidth=2)
            if len(finite) < len(values):
                axes.plot([1.0], [height], "x", color=PALETTE[1], transform=axes.get_yaxis_transform(), clip_on=False)
        # The legend's own marks, each once.
        axes.plot([], [], "o", color=PALETTE[0], alpha=0.7, label="a job")
        if several:
            axes.plot([], [], "|", color=PALETTE[1], markersize=12, markeredgewidth=2, label="mean over the seeds")
        if any(len(_finite(values)) < len(values) for _, values in lines):
            axes.plot([], [], "x", color=PALETTE[1], label="no result")
        _draw_floor(axes.axvline, floor)
        axes.set_yticks(range(len(lines)), [short(name) for name, _ in lines])
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set(xlabel=f"{result}  (lower is better)", ylabel=key)
        legend_above(axes)
    return path


def jobs_grid(
    path: Path, keys: tuple[str, str], settings: Mapping[tuple[str, str], Sequence[float]], result: str
) -> Path:
    """Draw the mean over the seeds of every pair of values of two keys as the colour of a cell, with its number."""
    rows, columns = ([*dict.fromkeys(pair[side] for pair in settings)] for side in (0, 1))
    means = [[_mean(settings.get((row, column), ())) for column in columns] for row in rows]
    finite = [value for row in means for value in row if math.isfinite(value)] or [0.0]
    with page(path, MARGIN + 60 + GRID_HEIGHT * len(rows)) as figure:
        axes = figure.add_subplot()
        narrow = min(finite) <= 0 or max(finite) < 10 * min(finite)
        scale = Normalize if narrow else LogNorm
        shown = axes.imshow(means, cmap="viridis_r", aspect="auto", norm=scale(min(finite), max(finite)))
        for i, row in enumerate(means):
            for j, value in enumerate(row):
                text = f"{value:.4g}" if math.isfinite(value) else "no result"
                axes.text(j, i, text, ha="center", va="center", bbox={"facecolor": "white", "edgecolor": "none"})
        axes.set_xticks(range(len(columns)), [short(name) for name in columns])
        axes.set_yticks(range(len(rows)), [short(name) for name in rows])
        axes.set(xlabel=keys[1], ylabel=keys[0])
        axes.grid(visible=False)
        axes.set_title(f"{result}  (lower is better)")
        figure.colorbar(shown)
    return path


def _draw_floor(line: Callable[..., Any], floor: float | None) -> None:
    if floor is not None:
        line(floor, color=QUIET, linestyle="--", linewidth=1.5, label=f"floor, real data: {floor:.4g}")


def jobs_over(
    path: Path,
    key: str,
    settings: Mapping[str, Mapping[float, Sequence[float]]],
    result: str,
    floor: float | None = None,
) -> Path:
    """Draw a curve for each setting over the values of ``key``: the mean over the seeds, in a band of their range.

    At most as many settings as there are colours, those with the lowest results.
    """
    lowest = sorted(settings, key=lambda name: min(map(_mean, settings[name].values())))[: len(PALETTE)]
    with page(path, HEIGHT) as figure:
        axes = figure.add_subplot()
        drawn = {name: {x: _finite(values) for x, values in settings[name].items()} for name in settings}
        known = [] if floor is None else [floor]
        scale_y(axes, [*known, *(value for name in lowest for values in drawn[name].values() for value in values)])
        places = sorted({x for name in lowest for x in drawn[name]})
        scale_x(axes, places)
        for colour, name in zip(PALETTE, (name for name in settings if name in lowest), strict=False):
            points = {x: values for x, values in sorted(drawn[name].items()) if values}
            axes.plot(list(points), list(map(_mean, points.values())), "o-", color=colour, label=short(name) or result)
            lower, upper = ([end(values) for values in points.values()] for end in (min, max))
            axes.fill_between(list(points), lower, upper, color=colour, alpha=0.15, linewidth=0)
        _draw_floor(axes.axhline, floor)
        axes.set_xticks(places)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set(xlabel=key, ylabel=f"{result}  (lower is better)")
        legend_above(axes)
    return path


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _mean(values: Sequence[float]) -> float:
    """The mean of the finite values; inf if there are none."""
    finite = _finite(values)
    return statistics.fmean(finite) if finite else math.inf
