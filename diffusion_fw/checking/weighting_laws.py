"""The laws of weightings: a finite weight, never negative, at every level."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from diffusion_fw.checking.findings import Row, at_least, verdict
from diffusion_fw.checking.schedule_laws import noisy_times
from diffusion_fw.checking.subject import Check, Subject, schedules
from diffusion_fw.registry import ConfigError

SPACES = ("native", "eps", "x0")


def weights(subject: Subject) -> Iterator[Row]:
    """Finite, >= 0, float64 and of t's shape at every noisy level of every schedule, or refused."""
    ran = 0
    for name, schedule in schedules().items():
        try:
            weighting = subject.assemble(schedule=schedule, data_std=0.5)
            level = schedule(noisy_times(schedule))
            weight = weighting(level)
        except ConfigError as error:
            yield Row("weights", name, f"refused: {error}")
            continue
        ran += 1
        wrong = None
        if weight.shape != level.t.shape or weight.dtype != torch.float64:
            wrong = f"shape {tuple(weight.shape)}, {weight.dtype}"
        elif not bool(weight.isfinite().all()):
            wrong = f"{weight[~weight.isfinite()][0].item()} at t = {level.t[~weight.isfinite()][0].item():g}"
        elif not bool((weight >= 0).all()):
            wrong = f"{weight.min().item():g} at t = {level.t[weight.argmin()].item():g}"
        elif not bool((weight > 0).any()):
            wrong = "0 everywhere"
        yield verdict("weights", name, wrong, "finite and >= 0")
    yield at_least("schedules that it weighs", "", ran, 1)


def space(subject: Subject) -> Iterator[Row]:
    """It declares which squared error it multiplies."""
    found = subject.assemble(schedule=schedules()["vp"], data_std=0.5).space
    yield verdict("space", "", None if found in SPACES else repr(found), f"one of {', '.join(SPACES)}")


CHECKS: tuple[Check, ...] = (space, weights)
