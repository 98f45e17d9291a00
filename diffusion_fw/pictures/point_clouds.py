"""Points in the plane: data beside samples, and trajectories from noise to data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from PIL import Image, ImageDraw
from torch import Tensor

from diffusion_fw.pictures.image_grids import TITLE, save_animation
from diffusion_fw.pictures.style import INK, PAGE, PALETTE, legend_above, page

SQUARE = 560
ANIMATED = 360
"""The side in pixels of an animation."""
PANELS_IN_A_ROW = 5
MOST_POINTS = 5000
"""More points would hide one another; only the first are drawn."""

Window = tuple[float, float, float]
"""A square of the plane: centre x, centre y, half of its side."""


def points(path: Path, values: Tensor, title: str = "Samples", classes: Sequence[str] = ()) -> Path:
    """Points (N, D >= 2) by their first two coordinates, with a colour for each of the ``classes`` (N,) if given."""
    with page(path, SQUARE, SQUARE) as figure:
        axes, window = figure.add_subplot(), _window(values)
        for k, name in enumerate(dict.fromkeys(classes)):
            chosen = torch.tensor([item == name for item in classes])
            _scatter(axes, values[: len(chosen)][chosen], window, "", PALETTE[k % len(PALETTE)])
            axes.collections[-1].set_label(name)
        if classes:
            legend_above(axes)
            axes.set_xlabel(title)
        else:
            _scatter(axes, values, window, title, PALETTE[1])
    return path


def points_table(path: Path, values: Tensor, columns: Sequence[str]) -> Path:
    """Points (R, C, D), a panel with R of them for each column, all in the window of the first column."""
    count = min(PANELS_IN_A_ROW, values.shape[1])
    rows, window = math.ceil(values.shape[1] / count), _window(values[:, 0])
    with page(path, rows * (PAGE // count + 20) + 10) as figure:
        panels = figure.subplots(rows, count, squeeze=False).flatten()
        for axes in panels[values.shape[1] :]:
            axes.set_axis_off()
        for axes, column, title in zip(panels, values.unbind(1), columns, strict=False):
            _scatter(axes, column, window, title, PALETTE[1], size=9)
            axes.tick_params(length=0, labelbottom=False, labelleft=False)
    return path


def points_comparison(path: Path, real: Tensor, generated: Tensor, title: str | None = None) -> Path:
    """Real (N, D) and generated (M, D) points in the window of the real ones; states how many lie outside."""
    with page(path, PAGE // 2 + 20) as figure:
        left, right = figure.subplots(1, 2)
        window = _window(real)
        outside = int((~_inside(generated, window)).sum())
        said = f", {outside:,} outside" if outside else ""
        _scatter(left, real, window, f"Real  (n = {len(real):,})", PALETTE[0])
        _scatter(right, generated, window, f"Generated  (n = {len(generated):,}{said})", PALETTE[1])
        if title:
            figure.suptitle(title, x=0.012, ha="left")
    return path


def points_trajectory(path: Path, frames: Tensor, times: Sequence[float], predictions: Tensor | None = None) -> Path:
    """Frames (S, N, D) at S times from noise to data, in a window around the last frame.

    With ``predictions`` of x_0 (S, N, D) each row of panels has a second one with them, in another colour.
    """
    x, y, half = _window(frames[-1])
    columns = min(PANELS_IN_A_ROW, len(frames))
    kinds = [("t = {:.2f}", frames), *([] if predictions is None else [("predicted $x_0$", predictions)])]
    rows = math.ceil(len(frames) / columns) * len(kinds)
    with page(path, rows * (PAGE // columns + 20) + 10) as figure:
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes in panels.flatten():
            axes.set_axis_off()
        for i, time in enumerate(times):
            for kind, (title, values) in enumerate(kinds):
                axes = panels[i // columns * len(kinds) + kind, i % columns]
                axes.set_axis_on()
                _scatter(axes, values[i], (x, y, 1.5 * half), title.format(time), PALETTE[1 - kind], size=3)
                axes.tick_params(length=0, labelbottom=False, labelleft=False)
    return path


def points_animation(path: Path, frames: Tensor, times: Sequence[float]) -> Path:
    """Frames (S, N, D) at S times as a GIF, in the window of ``points_trajectory``; matplotlib would take seconds."""
    x, y, half = _window(frames[-1])
    window = (x, y, 1.5 * half)
    pages = []
    for frame in frames:
        drawn = Image.new("RGB", (ANIMATED, ANIMATED + TITLE), "white")
        plane = frame[:MOST_POINTS, :2].double().cpu()
        places = (plane[_inside(plane, window)] - torch.tensor([x, y])) / (2 * window[2]) + 0.5
        for across, up in (ANIMATED * places).tolist():
            down = TITLE + ANIMATED - up
            ImageDraw.Draw(drawn).ellipse((across - 1, down - 1, across + 1, down + 1), fill=PALETTE[1])
        pages.append(drawn)
    return save_animation(path, pages, times)


def _window(values: Tensor) -> Window:
    """A square around all finite points, with a small margin."""
    plane = values[:, :2].double().cpu()
    plane = plane[plane.isfinite().all(1)]
    if not len(plane):
        return 0.0, 0.0, 1.0
    low, high = plane.amin(0), plane.amax(0)
    x, y = ((low + high) / 2).tolist()
    return x, y, 0.54 * float((high - low).max()) or 1.0


def _inside(values: Tensor, window: Window) -> Tensor:
    x, y, half = window
    centre = torch.tensor([x, y], dtype=torch.float64)
    return ((values[:, :2].double().cpu() - centre).abs() <= half).all(1)


def _scatter(axes: Axes, values: Tensor, window: Window, title: str, colour: str, size: float = 7) -> None:
    x, y, half = window
    shown = values[:MOST_POINTS, :2].double().cpu()
    horizontal, vertical = shown[_inside(shown, window)].T.numpy()
    axes.scatter(horizontal, vertical, s=size, color=colour, alpha=0.55, linewidths=0)
    axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal")
    axes.set_title(title, color=INK)
    axes.spines[["top", "right"]].set_visible(True)
