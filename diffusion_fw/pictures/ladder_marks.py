"""Numbers of known corruptions beside those of a model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from diffusion_fw.pictures.style import INK, PALETTE, QUIET, page, scale_x

MARGIN, LINE_HEIGHT = 120, 26


def ladder_marks(
    path: Path,
    rungs: Sequence[str],
    values: Mapping[str, Sequence[float]],
    model: Mapping[str, float],
    floor: Mapping[str, float | None],
    better: Mapping[str, str],
) -> Path:
    """A panel of marks for each number, one for each rung, with lines at the values of the model and of real examples.

    Rungs of one corruption, all words of the name but the last, are connected.
    """
    places: dict[str, list[int]] = {}
    for place, rung in enumerate(rungs):
        places.setdefault(rung.rpartition(" ")[0], []).append(place)
    with page(path, MARGIN + LINE_HEIGHT * len(rungs)) as figure:
        panels = figure.subplots(1, len(values), sharey=True, squeeze=False)[0]
        for axes, (name, each) in zip(panels, values.items(), strict=True):
            lines = [value for value in (model[name], floor[name]) if value is not None and math.isfinite(value)]
            _scale(axes, [*each, *lines])
            for colour, heights in zip(itertools.cycle(PALETTE[:-1]), places.values(), strict=False):
                axes.plot([each[height] for height in heights], heights, "o-", color=colour)
            real = floor[name]
            said = []
            if math.isfinite(model[name]):
                axes.axvline(model[name], color=INK)
                said.append(f"line: the model, {model[name]:.3g}")
            if real is not None and math.isfinite(real):
                axes.axvline(real, color=QUIET, linestyle="--", linewidth=1.5)
                said.append(f"dashed: real, {real:.3g}")
            axes.set_title(f"{name}  ({better[name]} is better)", fontsize=10)
            axes.set_xlabel("\n".join(said), fontsize=9)
            axes.grid(axis="y", visible=False)
        panels[0].set_yticks(range(len(rungs)), rungs)
        panels[0].set_ylim(len(rungs) - 0.5, -0.5)
    return path


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis for values of several sizes; linear around 0 if some of them are not positive."""
    finite = [value for value in values if math.isfinite(value)]
    scale_x(axes, finite)
    most, least = max(map(abs, finite), default=0.0), min(finite, default=0.0)
    if least < 0 and most > 30 * -least:
        axes.set_xscale("symlog", linthresh=-least)
        decades = range(math.ceil(math.log10(-least)), math.ceil(math.log10(most)))
        axes.set_xticks([0, *(10.0**power for power in decades)])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
