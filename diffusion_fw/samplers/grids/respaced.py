"""Improved DDPM's respacing, in its own notation."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, PositiveInt, register
from diffusion_fw.samplers.grid import Grid


@register("grid", "respaced")
@dataclass(frozen=True)
class Respaced(Grid):
    """DDPM's indices thinned out: "250" evenly, "10,20,30" evenly in each of three parts, "ddim50" by one stride.

    Nichol & Dhariwal 2021, section 4; a list [10,20,30] is "10,20,30", and no spec is sampler.steps. T = 1 / t_min on a
    continuous schedule. Raises ConfigError for another notation, a part with fewer indices than its count, a stride
    that does not exist, and a number of times that is not sampler.steps.
    """

    spec: PositiveInt | str | tuple[PositiveInt, ...] | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(ddim)?[1-9]\d*|[1-9]\d*(,[1-9]\d*)*", self.notation(1)):
            raise ConfigError(f'grid.spec={self.spec!r}: must be a number of steps, "ddimN" or "N,N,..." with N >= 1')

    def notation(self, steps: int) -> str:
        """The spec as improved DDPM writes it."""
        if self.spec is None:
            return str(steps)
        return ",".join(map(str, self.spec)) if isinstance(self.spec, tuple) else str(self.spec).replace(" ", "")

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        rows, notation = round(1 / schedule.t_min), self.notation(steps)
        indices = strided(rows, int(notation[4:])) if notation.startswith("ddim") else even(rows, notation.split(","))
        return (torch.tensor(indices, dtype=torch.float64).flip(0) + 1) / rows


def strided(rows: int, count: int) -> list[int]:
    """The indices 0, s, 2 s, .. < rows, ``count`` in number; ConfigError where no integer s gives that many."""
    indices = range(0, rows, -(-rows // count))
    if len(indices) == count:
        return list(indices)
    raise ConfigError(
        f"grid.spec=ddim{count}: no integer stride gives {count} of {rows} indices; "
        f"use grid=leading with sampler.steps={count}"
    )


def even(rows: int, counts: list[str]) -> list[int]:
    """For each of the counts, that many indices of one equal part of 0 .. rows - 1, its first and last included."""
    indices, start = [], 0
    for part, count in enumerate(map(int, counts)):
        size = rows // len(counts) + (part < rows % len(counts))
        if size < count:
            raise ConfigError(
                f"grid.spec: part {part + 1} of {len(counts)} has {size} of the schedule's {rows} indices, fewer than "
                f"the {count} asked for; lower grid.spec or sampler.steps"
            )
        stride = (size - 1) / max(1, count - 1)
        indices += [start + round(j * stride) for j in range(count)]
        start += size
    return indices
