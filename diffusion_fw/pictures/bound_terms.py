"""The terms of a variational bound over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion_fw.pictures.curves import HEIGHT
from diffusion_fw.pictures.style import PALETTE, legend_above, page


def bound_curve(path: Path, times: Sequence[float], terms: Sequence[float], prior: float) -> Path:
    """L_t in bits per dimension over t in a logarithmic scale (Nichol & Dhariwal 2021, figure 2), and its running sum.

    ``terms`` belong to the decreasing ``times``; the last is the decoder's.
    """
    values = np.asarray(terms)
    with page(path, HEIGHT) as figure:
        axes, sums = figure.subplots(1, 2)
        axes.plot(times[:-1], values[:-1], color=PALETTE[0], marker="o" if len(values) <= 60 else "")
        axes.plot(times[-1:], values[-1:], "o", color=PALETTE[1], label=f"$L_0$, the decoder: {values[-1]:.3g}")
        # Only in the legend: often smaller by many powers of ten, it would flatten all others.
        axes.plot([], [], " ", label=f"$L_T$, the prior: {prior:.2g}")
        axes.set(xlabel="t  (data at the left, noise at the right)", ylabel="bits per dimension", yscale="log")
        legend_above(axes)
        # Summed from the data on: the part of the bound that is spent below t.
        sums.plot(times[::-1], values[::-1].cumsum(), color=PALETTE[0])
        sums.set(xlabel="t", ylabel="bits per dimension spent below t", ylim=(0, None))
        sums.set_title(f"{values.sum() + prior:.4g} bits per dimension in all")
    return path
