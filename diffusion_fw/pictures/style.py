"""The style of all pictures: one font, one width, and colours that the colour-blind can distinguish."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from diffusion_fw.files import atomic_write
from diffusion_fw.pictures import formats

FORMATS = ("png", "svg", "pdf")
PAGE = 900
"""The width in pixels at which a README shows pictures unscaled."""
DPI = 100
LINE = 100
"""The number of characters that fit into the width of a page."""
MAX_NAME = 60
"""Characters of a name in a legend or at an axis; longer names are cut."""
KEY = 6
"""The width of a legend's key, in characters."""

INK = "#22272E"
QUIET = "#6B7480"
FAINT = "#E4E8EC"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito 2008, "Color Universal Design"."""

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "svg.hashsalt": "diffusion_fw",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "lines.linewidth": 2,
    "lines.markersize": 5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


@contextmanager
def page(path: Path, height: int, width: int = PAGE) -> Iterator[Figure]:
    """A figure of that size in pixels, written to ``path`` at the end; the global style does not change.

    The end of ``path`` says in which of FORMATS. It is also written beside it in those of ``formats.also``.
    """
    with matplotlib.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout=layout)
        yield figure
        own = path.suffix.removeprefix(".") or "png"
        for kind in dict.fromkeys([own, *formats.also]):
            # Without a date, so that the same numbers give the same file.
            metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
            with atomic_write(path.with_suffix(f".{kind}")) as file:
                figure.savefig(file, format=kind, dpi=DPI, metadata=metadata)


def scale_y(axes: Axes, values: Iterable[float], ratio: float = 3.0) -> None:
    """Make y logarithmic with plain numbers as ticks if the finite values are positive and span more than ``ratio``."""
    _scale(axes.set_yscale, axes.yaxis, values, ratio)


def scale_x(axes: Axes, values: Iterable[float], ratio: float = 3.0) -> None:
    """Make x logarithmic under the same condition."""
    _scale(axes.set_xscale, axes.xaxis, values, ratio)


def _scale(set_scale: Callable[..., None], axis: Axis, values: Iterable[float], ratio: float) -> None:
    finite = [value for value in values if math.isfinite(value)]
    if not finite or min(finite) <= 0 or max(finite) <= ratio * min(finite):
        return
    narrow = max(finite) < 100 * min(finite)
    set_scale("log", nonpositive="mask")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend_above(axes: Axes) -> None:
    """Put the legend above the axes, where it hides nothing, with as many names per line as fit."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max((len(label) for label in labels), default=0) + KEY
    columns = max(1, min(len(labels), LINE // longest))
    axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderaxespad=0.2)


def short(name: str) -> str:
    """A name, cut with an ellipsis if it has more than MAX_NAME characters."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
