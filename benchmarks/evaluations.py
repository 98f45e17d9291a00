"""How many evaluations of the network a sampler needs to come within 5% of the distance of DDIM with 1,000 steps."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.device.card import ROOT
from benchmarks.document import IMAGES
from benchmarks.row import Row
from diffusion_fw.app.evaluate import evaluate
from diffusion_fw.config.application import check_command_line
from diffusion_fw.config.compose import store_components
from diffusion_fw.pictures.style import legend_above, page

TRAINING = ["callbacks=[health,checkpoints]", "data=digits"]
REFERENCE, WITHIN, AIM = 1000, 0.05, 15
COUNTS = (3, 4, 5, 6, 8, 10, 15, 20, 50)
FEWEST = 10
SAMPLERS = {
    "ddim": ("ddim", 1, "uniform"),
    "dpm_solver_pp": ("dpm_solver_pp", 1, "log_snr"),
    "unipc": ("unipc", 1, "log_snr"),
    "deis": ("deis", 1, "uniform"),
    "heun": ("heun", 2, "uniform"),
    "iPNDM": ("plms sampler.warm_up=lower_order", 1, "uniform"),
    "iPNDM, analytic first step": ("plms sampler.warm_up=lower_order sampler.analytic_first_step=true", 1, "uniform"),
}
"""By name: the sampler with its parameters, its evaluations a step, and its grid.

On the cosine schedule, whose last row has log-SNR -20, steps that are even in log-SNR spend most evaluations where x is
pure noise. Samplers that are linear in eps, which is large there relative to x_0, then end far from the data.
"""


def distance(checkpoint: Path, name: str, evaluations: int) -> float:
    """The Fréchet distance of evaluate.py."""
    sampler, each, grid = SAMPLERS[name]
    steps = max(1, evaluations // each) + ("analytic" in sampler)
    arguments = [f"checkpoint={checkpoint}", *f"sampler={sampler}".split(), f"sampler.steps={steps}", f"grid={grid}"]
    (config,) = check_command_line("evaluate", arguments)
    with tempfile.TemporaryDirectory() as folder:
        return evaluate(config, Path(folder)).value


def needed(curve: dict[int, float], reference: float) -> int:
    """The smallest count from which on all distances are within 5% of the reference, or more than any measured."""
    close = [
        count for count in curve if all(curve[more] <= (1 + WITHIN) * reference for more in curve if more >= count)
    ]
    return min(close, default=max(curve) + 1)


def measure(training: list[str] = TRAINING, counts: tuple[int, ...] = COUNTS) -> Iterator[Row]:
    # The models are trained on all cores.
    torch.set_num_threads(os.cpu_count() or 1)
    store_components()
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, "train.py", *training, f"hydra.run.dir={folder}"]
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        subprocess.run(run, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        measured = functools.partial(distance, Path(folder) / "checkpoints" / "last.ckpt")
        reference = measured("ddim", REFERENCE)
        curves = {name: {count: measured(name, count) for count in counts} for name in SAMPLERS}
    for count in (count for count in counts if count <= FEWEST):
        baseline = curves["ddim"][count]
        for name in (name for name in SAMPLERS if name != "ddim"):
            value = curves[name][count]
            title = f"distance after {count} evaluations, {name}"
            yield Row(title, "DDIM", value, baseline, value / baseline, float("inf"), unit="(distance)")
    best = min(SAMPLERS, key=lambda name: needed(curves[name], reference))
    count = needed(curves[best], reference)
    title = f"evaluations to within {WITHIN:.0%} of DDIM with {REFERENCE:,} ({reference:.4g}): {best}"
    yield Row(title, "the aim", count, AIM, count / AIM, 1.0, unit="(evaluations)")
    yield Row(title, "DDIM", count, slow := needed(curves["ddim"], reference), count / slow, 1.0, unit="(evaluations)")
    with page(IMAGES / "cpu_evaluations.png", 420) as figure:
        axes = figure.add_subplot()
        for name, curve in curves.items():
            axes.loglog(list(curve), list(curve.values()), "o-", label=name)
        axes.axhline(reference, linestyle="--", color="gray", label=f"DDIM, {REFERENCE:,} steps")
        axes.set(xlabel="evaluations of the network", ylabel="Fréchet distance")
        legend_above(axes)
