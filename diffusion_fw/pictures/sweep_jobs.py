"""The results of a sweep's jobs: curves over a swept number, or a line of marks for each setting."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.ticker import FuncFormatter

from diffusion_fw.pictures.style import PALETTE, legend_above, page, scale_x, scale_y

HEIGHT, MARGIN, LINE_HEIGHT, MAX_LINES = 400, 90, 26, 60
MAX_NAME = 60
"""Characters of a setting's name; longer names are cut."""


def jobs_picture(path: Path, settings: Mapping[str, Sequence[float]], result: str) -> Path:
    """Draw a line for each setting, the lowest mean on top, with a mark for the result of each seed.

    A bar shows the mean of several results, a cross at the right edge a missing one. At most MAX_LINES settings.
    """
    lines = sorted(settings.items(), key=lambda line: _mean(line[1]))[:MAX_LINES]
    with page(path, MARGIN + LINE_HEIGHT * len(lines)) as figure:
        axes = figure.add_subplot()
        scale_x(axes, [value for _, values in lines for value in values])
        for height, (_, values) in enumerate(lines):
            finite = _finite(values)
            axes.plot(finite, [height] * len(finite), "o", color=PALETTE[0], alpha=0.7)
            if len(finite) > 1:
                axes.plot([_mean(finite)], [height], "|", color=PALETTE[1], markersize=16, markeredgewidth=2)
            if len(finite) < len(values):
                axes.plot([1.0], [height], "x", color=PALETTE[1], transform=axes.get_yaxis_transform(), clip_on=False)
        axes.set_yticks(range(len(lines)), [_short(name) for name, _ in lines])
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_xlabel(f"{result}  (lower is better)")
    return path


def jobs_over(path: Path, key: str, settings: Mapping[str, Mapping[float, Sequence[float]]], result: str) -> Path:
    """Draw a curve for each setting over the values of ``key``: the mean over the seeds, in a band of their range.

    At most as many settings as there are colours, those with the lowest results.
    """
    lowest = sorted(settings, key=lambda name: min(map(_mean, settings[name].values())))[: len(PALETTE)]
    with page(path, HEIGHT) as figure:
        axes = figure.add_subplot()
        drawn = {name: {x: _finite(values) for x, values in settings[name].items()} for name in settings}
        scale_y(axes, [value for name in lowest for values in drawn[name].values() for value in values])
        places = sorted({x for name in lowest for x in drawn[name]})
        scale_x(axes, places)
        for colour, name in zip(PALETTE, (name for name in settings if name in lowest), strict=False):
            points = {x: values for x, values in sorted(drawn[name].items()) if values}
            axes.plot(list(points), list(map(_mean, points.values())), "o-", color=colour, label=_short(name) or result)
            lower, upper = ([end(values) for values in points.values()] for end in (min, max))
            axes.fill_between(list(points), lower, upper, color=colour, alpha=0.15, linewidth=0)
        axes.set_xticks(places)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set(xlabel=key, ylabel=f"{result}  (lower is better)")
        legend_above(axes)
    return path


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _mean(values: Sequence[float]) -> float:
    """The mean of the finite values; inf if there are none."""
    finite = _finite(values)
    return statistics.fmean(finite) if finite else math.inf
