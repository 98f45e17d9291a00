"""The results of a sweep's jobs, one line for each setting, one mark for each seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from diffusion_fw.pictures.style import PALETTE, page, scale_x

MARGIN, LINE_HEIGHT, MOST_LINES = 90, 26, 60
LONGEST = 60
"""Characters of a setting's name."""


def jobs_picture(path: Path, settings: Sequence[tuple[str, Sequence[float]]], result: str) -> Path:
    """(name, results) of each setting, the lowest mean on top; a bar at the mean of several, a cross for no result.

    At most the best MOST_LINES settings.
    """
    lines = sorted(settings, key=lambda line: _mean(line[1]))[:MOST_LINES]
    with page(path, MARGIN + LINE_HEIGHT * len(lines)) as figure:
        axes = figure.add_subplot()
        scale_x(axes, [value for _, values in lines for value in values])
        for height, (_, values) in enumerate(lines):
            finite = [value for value in values if math.isfinite(value)]
            axes.plot(finite, [height] * len(finite), "o", color=PALETTE[0], alpha=0.7)
            if len(finite) > 1:
                axes.plot([_mean(finite)], [height], "|", color=PALETTE[1], markersize=16, markeredgewidth=2)
            if len(finite) < len(values):
                axes.plot([1.0], [height], "x", color=PALETTE[1], transform=axes.get_yaxis_transform(), clip_on=False)
        names = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name, _ in lines]
        axes.set_yticks(range(len(lines)), names)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_xlabel(f"{result}  (lower is better)")
    return path


def _mean(values: Sequence[float]) -> float:
    """Of the finite ones; inf where there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return statistics.fmean(finite) if finite else math.inf
