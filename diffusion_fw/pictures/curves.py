"""Curves of a run: its loss over the steps and over the noise levels, and its metric."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from diffusion_fw.pictures.style import PALETTE, QUIET, legend_above, page, scale_y

HEIGHT = 400


def loss_curve(
    path: Path,
    steps: Sequence[float],
    losses: Sequence[float],
    heldout: Sequence[Sequence[float]] = (),
    smoothing: float = 0.02,
) -> Path:
    """The recorded losses, faint, and their means over windows of ``smoothing`` times the run to either side.

    ``heldout`` holds (step, loss) pairs of the weights that are sampled. Losses that are not finite are left out.
    """
    x, y = _finite(steps, losses)
    smooth = _smooth(y, round(smoothing * len(y)))
    others_x, others_y = _finite([row[0] for row in heldout], [row[1] for row in heldout])
    with page(path, HEIGHT) as figure:
        axes = figure.add_subplot()
        scale_y(axes, [*smooth, *others_y])
        axes.plot(x, y, color=PALETTE[0], alpha=0.25, linewidth=1)
        axes.plot(x, smooth, color=PALETTE[0], label="training, smoothed")
        if len(others_x):
            axes.plot(others_x, others_y, "o-", color=PALETTE[1], label="held out")
        axes.set(xlabel="step", ylabel="loss")
        legend_above(axes)
    return path


def loss_by_log_snr(
    path: Path, centres: Sequence[float], losses: Sequence[float], irreducible: Sequence[float] | None = None
) -> Path:
    """Mean losses of bins with these centres in log-SNR, and the smallest possible ones, ``irreducible``, dashed."""
    with page(path, HEIGHT) as figure:
        axes = figure.add_subplot()
        floor = [] if irreducible is None else irreducible
        scale_y(axes, [*losses, *floor])
        axes.plot(*_finite(centres, losses), "o-", color=PALETTE[0], label="held out")
        if irreducible is not None:
            axes.plot(*_finite(centres, irreducible), "--", color=QUIET, label="irreducible")
        axes.set(
            ylabel="loss", xlabel="log-SNR,  2 log($\\alpha$ / $\\sigma$)        (noise at the left, data at the right)"
        )
        legend_above(axes)
    return path


def distance_curve(
    path: Path,
    distances: Mapping[str, Sequence[Sequence[float]]],
    label: str,
    floor: float | None = None,
) -> Path:
    """(step, value) pairs of each named distance on an axis called ``label``; the floor of real data is dashed."""
    curves = {name: _finite([row[0] for row in rows], [row[1] for row in rows]) for name, rows in distances.items()}
    with page(path, HEIGHT) as figure:
        axes = figure.add_subplot()
        levels = [] if floor is None else [floor]
        scale_y(axes, [*levels, *(float(value) for _, values in curves.values() for value in values)])
        for colour, (name, (steps, values)) in zip(itertools.cycle(PALETTE), curves.items(), strict=False):
            axes.plot(steps, values, "o-", color=colour, label=name)
            if len(values):
                _annotate(axes, (float(steps[-1]), float(values[-1])), f"{values[-1]:.4g}", colour)
        if floor is not None:
            axes.axhline(floor, color=QUIET, linestyle="--", linewidth=1.5, label=f"real data: {floor:.4g}")
        axes.set(xlabel="step", ylabel=f"{label}  (lower is better)")
        axes.margins(x=0.06)
        legend_above(axes)
    return path


def _annotate(axes: Axes, point: tuple[float, float], text: str, colour: str) -> None:
    """Text to the right of a point, in front of lines that pass there."""
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.annotate(text, point, (9, 0), textcoords="offset points", va="center", color=colour, bbox=paper)


def _finite(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The points whose coordinates are both finite."""
    points = np.stack([np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)])
    kept = points[:, np.isfinite(points).all(0)]
    return kept[0], kept[1]


def _smooth(values: np.ndarray, reach: int) -> np.ndarray:
    """The mean of each value and ``reach`` values on either side, taken twice.

    Near the beginning windows are shorter on both sides, so that they do not flatten the steep first losses.
    """
    index = np.arange(len(values))
    before = np.minimum(index, reach)
    after = np.minimum(index[::-1], before)
    for _ in range(2):
        total = np.concatenate([[0.0], values.cumsum()])
        values = (total[index + after + 1] - total[index - before]) / (before + after + 1)
    return values
