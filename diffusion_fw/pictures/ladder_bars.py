"""Numbers of known corruptions beside that of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffusion_fw.pictures.style import INK, PALETTE, QUIET, page, scale_x

MARGIN, LINE_HEIGHT = 120, 26


def ladder_bars(
    path: Path,
    rungs: Sequence[str],
    values: Mapping[str, Sequence[float]],
    model: Mapping[str, float],
    floor: Mapping[str, float | None],
    better: Mapping[str, str],
) -> Path:
    """A panel of bars for each number, one for each rung, with lines at the values of the model and of real examples.

    Rungs of one corruption, all words of its name but the last, have one colour.
    """
    kinds = [rung.rpartition(" ")[0] for rung in rungs]
    order = list(dict.fromkeys(kinds))
    colours = [PALETTE[(2 + order.index(kind)) % len(PALETTE)] for kind in kinds]
    with page(path, MARGIN + LINE_HEIGHT * len(rungs)) as figure:
        panels = figure.subplots(1, len(values), sharey=True, squeeze=False)[0]
        for axes, (name, each) in zip(panels, values.items(), strict=True):
            lines = [value for value in (model[name], floor[name]) if value is not None and math.isfinite(value)]
            scale_x(axes, [*each, *lines])
            axes.barh(range(len(rungs)), each, color=colours, height=0.7)
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
