"""The trials of a search, a mark for each, and the best distance so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from diffusion_fw.pictures.style import PALETTE, QUIET, legend_above, page, scale_y

HEIGHT = 400


def trials_picture(path: Path, trials: Sequence[tuple[int, float, str]]) -> Path:
    """Draw (number, distance, outcome) of each trial; those without a finite distance are crosses at the upper edge."""
    complete = [(number, value) for number, value, outcome in trials if outcome == "complete"]
    pruned = [(n, value) for n, value, outcome in trials if outcome.startswith("pruned") and math.isfinite(value)]
    others = [number for number, value, outcome in trials if not math.isfinite(value)]
    with page(path, HEIGHT) as figure:
        axes = figure.add_subplot()
        scale_y(axes, [value for _, value in complete + pruned])
        if complete:
            numbers, values = zip(*complete, strict=True)
            best = [min(values[: i + 1]) for i in range(len(values))]
            axes.step(numbers, best, where="post", color=PALETTE[0], label="best so far")
            axes.plot(numbers, values, "o", color=PALETTE[0], label="complete")
        if pruned:
            axes.plot(*zip(*pruned, strict=True), "o", color=PALETTE[4], fillstyle="none", label="pruned, at that step")
        if others:
            at = axes.get_xaxis_transform()
            marks = axes.plot(others, [1.0] * len(others), "x", color=PALETTE[1], transform=at, clip_on=False)
            marks[0].set_label("failed or diverged")
        if not complete:
            axes.text(0.5, 0.5, "no trial is complete", color=QUIET, ha="center", transform=axes.transAxes)
        axes.set(xlabel="trial", ylabel="best distance of the run  (lower is better)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if trials:
            legend_above(axes)
    return path
