"""A noise schedule: alpha and sigma, and log-SNR."""

from __future__ import annotations

from pathlib import Path

import torch

from diffusion_fw.pictures.style import PALETTE, QUIET, legend_above, page, scale_y
from diffusion_fw.process.schedule import Schedule

POINTS = 1000


def schedule(path: Path, schedule: Schedule, name: str) -> Path:
    """alpha(t) and sigma(t) beside log-SNR(t) at the schedule's own times; a triangle marks an infinite log-SNR."""
    noisy = schedule.fraction(torch.linspace(0, 1, POINTS + 1, dtype=torch.float64)).unique()
    level = schedule(torch.cat([torch.zeros(1, dtype=torch.float64), noisy]))
    t, log_snr = level.t.numpy(), level.log_snr
    with page(path, 400) as figure:
        left, right = figure.subplots(1, 2)
        if float(level.sigma[level.sigma.isfinite()].max()) > 2:
            scale_y(left, [*level.sigma[1:].tolist(), *level.alpha[level.alpha > 0].tolist()])
        left.plot(t, level.alpha.numpy(), color=PALETTE[0], label="$\\alpha$, signal")
        left.plot(t, level.sigma.numpy(), color=PALETTE[1], label="$\\sigma$, noise")
        left.set(ylabel="coefficient")
        legend_above(left)
        right.plot(t, log_snr.masked_fill(log_snr.isinf(), torch.nan).numpy(), color=PALETTE[2])
        for infinity, marker, height in ((torch.inf, "^", 1), (-torch.inf, "v", 0)):
            for end in t[(log_snr == infinity).numpy()]:
                (mark,) = right.plot(end, height, marker, color=PALETTE[2], transform=right.get_xaxis_transform())
                mark.set(clip_on=False, zorder=3)
        right.axhline(0, color=QUIET, linewidth=0.8)
        right.set(ylabel="log-SNR,  2 log($\\alpha$ / $\\sigma$)")
        for axes in (left, right):
            axes.set(xlabel="time t        (0 = data, 1 = noise)", xlim=(-0.02, 1.02))
        figure.suptitle(f"Schedule: {name}", x=0.012, ha="left")
    return path
