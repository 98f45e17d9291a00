"""The laws of grids: steps + 1 decreasing times that end at clean data."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from diffusion_fw.checking.findings import Row, at_least, verdict
from diffusion_fw.checking.subject import Check, Subject, schedules
from diffusion_fw.process.schedule import DiscreteSchedule, Schedule
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.grid import Grid

STEPS = (*range(1, 51), 100)


def _wrong(grid: Grid, steps: int, schedule: Schedule) -> str | None:
    """What is wrong with the times; ConfigError where the grid refuses."""
    times = grid(steps, schedule)
    if times.shape != (steps + 1,) or times.dtype != torch.float64:
        return f"shape {tuple(times.shape)}, {times.dtype} for {steps} steps"
    if not bool((times.diff() < 0).all()):
        return f"times that do not decrease, for {steps} steps"
    if times[0] > 1 or times[-1] != 0:
        return f"times from {times[0]:g} to {times[-1]:g}, for {steps} steps"
    level = schedule(times)
    if not bool(level.sigma.isfinite().all() and level.log_snr[1:-1].isfinite().all()):
        return f"a time that has no level, for {steps} steps"
    if isinstance(schedule, DiscreteSchedule) and grid.on_rows and not torch.equal(schedule.snap(times), times):
        return f"times between the rows of the table, for {steps} steps"
    return None


def times(subject: Subject) -> Iterator[Row]:
    """steps + 1 float64 times, decreasing strictly from at most 1 to 0, on every schedule, or refused."""
    grid = subject.assemble()
    served = 0
    for name, schedule in schedules().items():
        refused, wrong = "", None
        for steps in STEPS:
            try:
                wrong = wrong or _wrong(grid, steps, schedule)
                served += 1
            except ConfigError as error:
                refused = refused or f"refused for {steps} steps: {error}"
        note = f"{name}, {refused}" if refused else f"{name}, {STEPS[0]} to {STEPS[-1]} steps"
        yield verdict("times", note, wrong, "steps + 1, from at most 1 decreasing to 0")
    yield at_least("numbers of steps and schedules that it serves", "", served, 1)


def repeatable(subject: Subject) -> Iterator[Row]:
    """Two calls give the same times."""
    grid = subject.assemble()
    for name, schedule in schedules().items():
        for steps in STEPS:
            try:
                same = torch.equal(grid(steps, schedule), grid(steps, schedule))
            except ConfigError:
                continue
            yield verdict("two calls", f"{name}, {steps} steps", None if same else "other times", "the same times")
            return


CHECKS: tuple[Check, ...] = (times, repeatable)
