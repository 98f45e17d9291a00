"""The profile of an average of the weights that was made after training, beside the requested one."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from diffusion_fw.pictures.style import PALETTE, QUIET, legend_above, page


def profiles(path: Path, steps: Tensor, wanted: Tensor, reached: Tensor, parts: Tensor, title: str) -> Path:
    """The densities over the steps (P,) of the requested average, of the one reached, and of its parts (K, P).

    NaN is not drawn.
    """
    with page(path, 380) as figure:
        axes = figure.subplots()
        for index, part in enumerate(parts):
            label = f"the {len(parts)} averages that it combines" if index == 0 else None
            axes.plot(steps.numpy(), part.numpy(), color=QUIET, linewidth=0.6, alpha=0.4, label=label)
        axes.plot(steps.numpy(), wanted.numpy(), color=PALETTE[0], linewidth=4, alpha=0.5, label="requested")
        axes.plot(steps.numpy(), reached.numpy(), "--", color=PALETTE[1], linewidth=1.5, label="reached")
        top = max(float(wanted.max()), float(reached.max()))
        axes.set(ylim=(min(0.0, float(reached.min())) - 0.03 * top, 1.15 * top))
        axes.set(xlabel="training step", ylabel="density $\\times$ steps")
        legend_above(axes)
        figure.suptitle(title, x=0.012, ha="left")
    return path
