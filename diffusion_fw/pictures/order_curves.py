"""The error of samplers over the number of evaluations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from diffusion_fw.pictures.style import INK, PALETTE, QUIET, legend_above, page

HEIGHT = 560
SMALLEST = 1e-12
"""Errors below this are rounding and are not shown."""
MARKERS = "osD^vPX"


def convergence(
    path: Path, curves: Mapping[str, Sequence[tuple[int, float]]], orders: Mapping[str, int], title: str
) -> Path:
    """(evaluations, error) of each named sampler in logarithmic scales, with a dashed line of its declared order.

    The line of order p has slope -p and ends at half the error of the curve's last point.
    """
    with page(path, HEIGHT) as figure:
        axes = figure.add_subplot()
        shown = {name: [point for point in points if point[1] > SMALLEST] for name, points in curves.items()}
        styles = zip(itertools.cycle(PALETTE), itertools.cycle(MARKERS), strict=False)
        for (colour, marker), (name, points) in zip(styles, shown.items(), strict=False):
            label = f"{name}  (order {orders[name]})" if name in orders else name
            axes.plot(*zip(*points, strict=True), marker + "-", color=colour, label=label)
            if name in orders and points:
                _slope(axes, points, orders[name], colour)
        axes.plot([], [], "--", color=QUIET, linewidth=1, label="slope of the declared order")
        _logarithmic(axes, [error for points in shown.values() for _, error in points])
        axes.set(xlabel="evaluations of the denoiser", ylabel="distance to the exact flow (root mean square)")
        legend_above(axes)
        figure.suptitle(title, x=0.012, ha="left", color=INK)
    return path


def _slope(axes: Axes, points: Sequence[tuple[int, float]], order: int, colour: str) -> None:
    """The dashed line below the last points of the curve."""
    last, error = points[-1][0], points[-1][1] / 2
    first = points[-4:][0][0]
    axes.plot([first, last], [error * (last / first) ** order, error], "--", color=colour, linewidth=1)


def _logarithmic(axes: Axes, errors: Sequence[float]) -> None:
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if errors:
        low, high = (
            round_(math.log10(bound)) for round_, bound in ((math.floor, min(errors)), (math.ceil, max(errors)))
        )
        axes.set_ylim(10.0**low, 10.0**high)
        axes.yaxis.set_major_locator(LogLocator(numticks=high - low + 1))
