"""How the time grows with steps, batch, pixels and channels: the slope of log time over log size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence

import torch

import diffusion_fw as dfw
from benchmarks.document import IMAGES
from benchmarks.row import Row
from benchmarks.sampling_step import Null
from benchmarks.timing import in_turns
from diffusion_fw.pictures.style import page

ROUNDS, TOLERANCE = 5, 0.1


def sampling(steps: int) -> Callable[[], object]:
    denoiser = dfw.NetworkDenoiser(Null(), dfw.build("schedule", "linear"), dfw.build("parameterization", "epsilon"))
    sampler, x = dfw.build("sampler", "ddim", steps=steps), torch.randn(16, 3, 32, 32)
    return lambda: sampler(denoiser, x)


def training(*, batch: int = 8, size: int = 16, channels: int = 32) -> Callable[[], object]:
    """A loss of the default U-Net and its gradient."""
    network = dfw.build("network", "unet", shape=(3, size, size), channels=channels)
    denoiser = dfw.NetworkDenoiser(network, dfw.build("schedule", "linear"), dfw.build("parameterization", "epsilon"))
    objective = dfw.build("objective", "simple", weighting=dfw.build("weighting", "native"))
    x, level = torch.randn(batch, 3, size, size), denoiser.schedule(torch.full((batch,), 0.5, dtype=torch.float64))
    return lambda: objective(denoiser, x, level, torch.randn_like(x)).mean().backward()


CASES: dict[str, tuple[float, Callable[[int], Callable[[], object]], Sequence[int]]] = {
    "sampling over steps": (1, sampling, (20, 50, 125, 300, 750)),
    "training over batch": (1, lambda value: training(batch=value), (4, 8, 16, 32, 64)),
    "training over pixels": (1, lambda value: training(size=math.isqrt(value)), (64, 256, 1024, 4096)),
    "training over channels": (2, lambda value: training(channels=value), (16, 32, 64, 128)),
}
"""Each with the exponent of the number of operations."""


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The least-squares slope of log seconds over log size."""
    return statistics.linear_regression([math.log(item) for item in sizes], [math.log(item) for item in seconds]).slope


def measure() -> Iterator[Row]:
    curves = {}
    for name, (own, prepare, sizes) in CASES.items():
        rounds = in_turns([prepare(size) for size in sizes], repeats=1, rounds=ROUNDS)
        seconds = [statistics.median(times) for times in zip(*rounds, strict=True)]
        found = exponent(sizes, seconds)
        curves[f"{name}: {found:.2f}"] = (sizes, seconds)
        at_most = (own + TOLERANCE) / own
        yield Row(name, "the number of operations", found, own, found / own, at_most, unit="(exponent)")
    with page(IMAGES / "cpu_growth.png", 420) as figure:
        axes = figure.add_subplot()
        for name, (sizes, seconds) in curves.items():
            axes.loglog([size / sizes[0] for size in sizes], [item / seconds[0] for item in seconds], "o-", label=name)
        axes.set(xlabel="size, relative to the smallest", ylabel="time, relative to that of the smallest")
        axes.legend(title="fitted exponent")
