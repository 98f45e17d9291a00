"""Samples of the same data from every sampler, in small panels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from torch import Tensor

from diffusion_fw.pictures.style import INK, PAGE, PALETTE, QUIET, page

PANELS_IN_A_ROW = 5


def gallery(path: Path, exact: Tensor, samples: Mapping[str, Tensor], title: str) -> Path:
    """Points (N, 2) of the exact distribution and samples (M, 2) of each sampler, in the window of the exact ones."""
    columns = min(PANELS_IN_A_ROW, 1 + len(samples))
    rows = math.ceil((1 + len(samples)) / columns)
    low, high = exact.amin(0), exact.amax(0)
    x, y = ((low + high) / 2).tolist()
    half = 0.52 * float((high - low).max())
    with page(path, rows * (PAGE // columns + 12) + 40) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes in panels[1 + len(samples) :]:
            axes.set_axis_off()
        contents = [("exact", exact, QUIET), *((name, points, PALETTE[0]) for name, points in samples.items())]
        for axes, (name, points, colour) in zip(panels, contents, strict=False):
            _scatter(axes, points, name, colour)
            axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half))
        figure.suptitle(title, x=0.012, ha="left", color=INK)
    return path


def _scatter(axes: Axes, points: Tensor, title: str, colour: str) -> None:
    horizontal, vertical = points.T.numpy()
    axes.scatter(horizontal, vertical, s=3, color=colour, alpha=0.35, linewidths=0)
    axes.set_title(title, color=INK, fontsize=9, pad=4)
    axes.set_aspect("equal")
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
    axes.spines[["top", "right"]].set_visible(True)
