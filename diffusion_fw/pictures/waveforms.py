"""Series as small lines in cells: samples, real beside generated with their spectra, and the way from noise to data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from PIL import Image, ImageDraw
from torch import Tensor

from diffusion_fw.pictures.image_grids import TITLE, save_animation
from diffusion_fw.pictures.style import FAINT, INK, PALETTE, QUIET, legend_above, page, scale_y

ROW = 44
"""The height in pixels of a row of lines."""
COLUMNS = 4
COMPARED = 8
"""Rows of a comparison."""
FILL = 0.9
"""The part of a cell that lines fill."""
MOST_CHANNELS = len(PALETTE)
MOST_VALUES = 1000
"""Of a line; more would fall into the same pixels. Then a line has the means of groups of values."""
ANIMATED = (180, 60)
"""Width and height in pixels of a cell of an animation."""

Bounds = tuple[float, float]


def series(path: Path, values: Tensor, bounds: Bounds, classes: Sequence[str] = (), title: str | None = None) -> Path:
    """Series (N, C, L) row by row, a colour for each channel, and the class of each, if given, at its left."""
    columns = min(COLUMNS, len(values))
    rows = math.ceil(len(values) / columns)
    with page(path, _height(rows, title)) as figure:
        axes = _cells(figure.add_subplot(), rows, columns)
        for i, each in enumerate(values):
            _line(axes, each, i // columns, i % columns, bounds)
        for i, name in enumerate(classes[: len(values)]):
            axes.text(i % columns, i // columns + 0.12, name, color=QUIET, fontsize=8, va="top")
        axes.set_title(title or "")
    return path


def series_comparison(path: Path, real: Tensor, generated: Tensor, bounds: Bounds, title: str | None = None) -> Path:
    """Real (N, C, L) and generated (M, C, L) series, two columns of each, above the mean power spectra of all."""
    rows = min(COMPARED, math.ceil(max(len(real), len(generated)) / 2))
    with page(path, _height(rows, "titles") + 250) as figure:
        upper, lower = figure.subplots(2, 1, height_ratios=[_height(rows, "titles"), 250])
        axes = _cells(upper, rows, 4)
        for first, values, colour, name in ((0, real, PALETTE[0], "Real"), (2, generated, PALETTE[1], "Generated")):
            for i, each in enumerate(values[: 2 * rows]):
                _line(axes, each, i // 2, first + i % 2, bounds, colour if len(each) == 1 else None)
            axes.text(first, -0.1, f"{name}  (n = {len(values):,})", color=INK, va="bottom", fontsize=11)
            lower.plot(mean_power(values), color=colour, label=name, linestyle="-" if first == 0 else "--")
        lower.set(xlabel=f"cycles in {real.shape[-1]} values", ylabel="mean power")
        scale_y(lower, torch.cat([mean_power(real), mean_power(generated)]).tolist())
        legend_above(lower)
        if title:
            figure.suptitle(title, x=0.012, ha="left")
    return path


def mean_power(values: Tensor) -> Tensor:
    """mean_n sum_c |sum_l x_l e^(-2 pi i j l / L)|^2 / L at j = 0 .. L / 2, of the finite ones of series (N, C, L).

    NaN where none is finite.
    """
    finite = values[values.flatten(1).isfinite().all(1)].double().cpu()
    if not len(finite):
        return torch.full((values.shape[-1] // 2 + 1,), math.nan, dtype=torch.float64)
    power: Tensor = torch.fft.rfft(finite).abs().square().sum(1).mean(0) / values.shape[-1]
    return power


def series_trajectory(
    path: Path, frames: Tensor, times: Sequence[float], bounds: Bounds, predictions: Tensor | None = None
) -> Path:
    """Frames (S, N, C, L) at S times: a row per sample, a column per time, each column in a scale of its own.

    With ``predictions`` of x_0 each sample has a second row of them, in another colour.
    """
    shown = frames[:, :, None] if predictions is None else torch.stack([frames, predictions], dim=2)
    moments, samples, kinds = shown.shape[:3]
    with page(path, _height(samples * kinds, "titles")) as figure:
        axes = _cells(figure.add_subplot(), samples * kinds, moments)
        for j, time in enumerate(times):
            axes.text(j + 0.5, -0.1, f"t = {time:.2f}", color=QUIET, ha="center", va="bottom", fontsize=9)
            for kind in range(kinds):
                window = bounds if kind else _wide(shown[j, :, kind], bounds)
                for i in range(samples):
                    colour = PALETTE[1 - kind] if shown.shape[3] == 1 else None
                    _line(axes, shown[j, i, kind], i * kinds + kind, j, window, colour)
        if kinds == 2:
            for i, name in enumerate(("$x_t$", "$x_0$") * samples):
                axes.text(-0.02, i + 0.5, name, color=QUIET, ha="right", va="center", fontsize=9)
    return path


def series_table(path: Path, values: Tensor, rows: Sequence[str], columns: Sequence[str], bounds: Bounds) -> Path:
    """Series (R, C', C, L) with a title left of each row and above each column."""
    with page(path, _height(len(values), "titles")) as figure:
        axes = _cells(figure.add_subplot(), *values.shape[:2])
        for i, row in enumerate(values):
            for j, each in enumerate(row):
                _line(axes, each, i, j, bounds)
        for j, name in enumerate(columns):
            axes.text(j + 0.5, -0.1, name, color=INK, ha="center", va="bottom", fontsize=9)
        for i, name in enumerate(rows):
            axes.text(-0.02, i + 0.5, name, color=QUIET, ha="right", va="center", fontsize=9)
    return path


def series_animation(path: Path, frames: Tensor, times: Sequence[float], bounds: Bounds) -> Path:
    """Frames (S, N, C, L) at S times as a GIF, each in a scale of its own; matplotlib would take seconds."""
    columns = math.ceil(math.sqrt(frames.shape[1]))
    width, height = ANIMATED
    pages = []
    for frame in frames:
        window = _wide(frame, bounds)
        drawn = Image.new("RGB", (columns * width, TITLE + math.ceil(len(frame) / columns) * height), "white")
        pen = ImageDraw.Draw(drawn)
        for i, each in enumerate(frame):
            left, top = i % columns * width, TITLE + i // columns * height
            for channel, line in enumerate(_placed(each, window)):
                points = [(left + (width - 4) * x + 2, top + height * y) for x, y in line.tolist()]
                pen.line(points, fill=PALETTE[(1 + channel) % MOST_CHANNELS], width=1)
        pages.append(drawn)
    return save_animation(path, pages, times)


def _height(rows: int, title: str | None) -> int:
    return rows * ROW + (50 if title else 24)


def _cells(axes: Axes, rows: int, columns: int) -> Axes:
    """Axes in which the cell of row i and column j is the square from (j, i) to (j + 1, i + 1), row 0 at the top."""
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.set_axis_off()
    middles = [[(0, i + 0.5), (columns, i + 0.5)] for i in range(rows)]
    axes.add_collection(LineCollection(middles, colors=FAINT, linewidths=0.8))
    return axes


def _line(axes: Axes, values: Tensor, row: int, column: int, bounds: Bounds, colour: str | None = None) -> None:
    """One series (C, L) in its cell."""
    lines = [(line + torch.tensor([column, row])).numpy() for line in _placed(values, bounds)]
    axes.add_collection(LineCollection(lines, colors=colour or PALETTE, linewidths=1.0))


def _placed(values: Tensor, bounds: Bounds) -> list[Tensor]:
    """The points (L, 2) of each of the first channels of a series (C, L) in a cell [0, 1]^2; y grows downwards.

    The bounds are drawn at the edges of the filled part, and what lies beyond them at the edges of the cell. Values
    that are not finite are left out.
    """
    low, high = bounds
    values = values[:MOST_CHANNELS].double().cpu()
    if values.shape[-1] > MOST_VALUES:
        values = torch.nn.functional.adaptive_avg_pool1d(values, MOST_VALUES)
    across = torch.linspace(0.04, 0.96, values.shape[-1], dtype=torch.float64)
    up = (0.5 + FILL * ((values - low) / ((high - low) or 1.0) - 0.5)).clamp(0, 1)
    points = [torch.stack([across, 1 - line], dim=-1) for line in up]
    return [line[line.isfinite().all(1)] for line in points]


def _wide(values: Tensor, bounds: Bounds) -> Bounds:
    """The bounds, or symmetric ones about their middle in which all finite values lie."""
    low, high = bounds
    finite = values[values.isfinite()]
    middle = (low + high) / 2
    half = max(float((finite - middle).abs().max()) if len(finite) else 0.0, (high - low) / 2)
    return middle - half, middle + half
