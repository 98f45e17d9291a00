"""An average of the weights that was made after training, beside the one that was asked for."""

from __future__ import annotations

from pathlib import Path

import torch

from diffusion_fw.pictures.style import PALETTE, QUIET, legend_above, page
from diffusion_fw.training.power_profile import Fit

POINTS = 2000


def profiles(path: Path, fit: Fit) -> Path:
    """How much each step of training counts in the average: asked for, reached, and in each of those it is made of."""
    time = fit.target.time
    t = torch.linspace(0, time, POINTS + 1, dtype=torch.float64)[1:]
    steps = t.numpy()
    with page(path, 380) as figure:
        axes = figure.subplots()
        wanted, reached = time * fit.target.density(t), time * fit.density(t)
        for index, profile in enumerate(fit.profiles):
            label = f"the {len(fit.profiles)} averages it is made of" if index == 0 else None
            density = (time * profile.density(t)).masked_fill(t > profile.time, torch.nan)
            axes.plot(steps, density.numpy(), color=QUIET, linewidth=0.6, alpha=0.4, label=label)
        axes.plot(steps, wanted.numpy(), color=PALETTE[0], linewidth=4, alpha=0.5, label="asked for")
        axes.plot(steps, reached.numpy(), "--", color=PALETTE[1], linewidth=1.5, label="reached")
        top = float(torch.stack([wanted, reached]).max())
        axes.set(ylim=(min(0.0, float(reached.min())) - 0.03 * top, 1.15 * top))
        axes.set(xlabel="training step", ylabel="density $\\times$ steps")
        legend_above(axes)
        title = f"Average of std={fit.target.std:g} at step {time:g}: its profile is off by {fit.residual:.2%}"
        figure.suptitle(title, x=0.012, ha="left")
    return path
