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


def rate_distortion(path: Path, times: Sequence[float], rate: Sequence[float], distortion: Sequence[float]) -> Path:
    """Distortion (root mean square, 0 .. 255) and rate (bits per dimension) over time, and one against the other.

    Ho et al. 2020, figure 5. All belong to the decreasing ``times``; time runs from noise at the left to data.
    """
    mark = "o" if len(times) <= 60 else ""
    with page(path, HEIGHT) as figure:
        left, middle, right = figure.subplots(1, 3)
        reverse = [1 - t for t in times]
        left.plot(reverse, distortion, color=PALETTE[0], marker=mark)
        left.set(xlabel="1 - t  (noise at the left)", ylabel="distortion (RMSE, 0..255)", ylim=(0, None))
        middle.plot(reverse, rate, color=PALETTE[1], marker=mark)
        middle.set(xlabel="1 - t", ylabel="rate (bits per dimension)", ylim=(0, None))
        right.plot(rate, distortion, color=PALETTE[2], marker=mark)
        right.set(xlabel="rate (bits per dimension)", ylabel="distortion (RMSE, 0..255)", ylim=(0, None))
    return path
