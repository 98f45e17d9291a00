"""Curves of several runs in one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from diffusion_fw.pictures.style import PALETTE, QUIET, legend_above, page, scale_y, short

HEIGHT, LEGEND, MARKED = 300, 26, 30
STYLES = ("-", "--", ":", "-.")
"""Each colour is used once with each of them."""


def run_curves(
    path: Path,
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    floors: Mapping[str, float] | None = None,
) -> Path:
    """A panel below another for each named value, with the curve (step, value) of each named run that has it.

    ``floors`` holds the value of real data in some panels, drawn dashed. A run has the same colour in all panels.
    """
    runs = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    with page(path, HEIGHT * len(panels) + LEGEND * (1 + len(runs) // 3)) as figure:
        for index, (axes, (value, curves)) in enumerate(
            zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True)
        ):
            floor = (floors or {}).get(value)
            known = [] if floor is None else [floor]
            scale_y(axes, [*known, *(y for points in curves.values() for _, y in points)])
            for place, name in enumerate(runs):
                points = curves.get(name, [])
                axes.plot(
                    [step for step, _ in points],
                    [y for _, y in points],
                    color=PALETTE[place % len(PALETTE)],
                    linestyle=STYLES[place // len(PALETTE) % len(STYLES)],
                    marker="o" if len(points) <= MARKED else None,
                    label=short(name),
                )
            if floor is not None:
                axes.axhline(floor, color=QUIET, linestyle="--", linewidth=1.5)
                # Beside the line: each panel has its own, and the legend stands above the first.
                beside = axes.get_yaxis_transform()
                axes.text(0.01, floor, f"real data: {floor:.4g}", transform=beside, va="bottom", color=QUIET)
            axes.set(xlabel="step", ylabel=value)
            if index == 0:
                legend_above(axes)
    return path
