"""The times at which a sampler evaluates the denoiser: ``steps`` decreasing times in (0, 1], then 0.

With T the rows of a table (1 / t_min on a continuous schedule), N steps and j = 0..N-1:

    uniform     t = start (1 - j / N), start = 1      every row for N = T; also called trailing
    leading     indices floor(j T / N)                DDIM's, one stride below pure noise
    linspace    N even times from 1 to t_min
    quadratic   indices floor((j / (N-1))^2 0.8 T)    DDIM's, small steps at little noise
    respaced    improved DDPM's "250", "10,20,30" and "ddim50"
    karras      (sigma / alpha)^(1 / rho) even
    log_snr     log-SNR even
    levels_of   the levels at even times of another schedule
    explicit    the given times
"""

from __future__ import annotations

import functools
import itertools
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, Fraction, Name, OpenFraction, Positive, PositiveInt, Range, register

PRESERVED = 1e-6
"""The error of alpha^2 + sigma^2 = 1 on a path that preserves the variance."""


@dataclass(frozen=True)
class Grid(ABC):
    """Makes steps + 1 decreasing float64 times, the last one 0, from a number of steps and a schedule."""

    @property
    def on_rows(self) -> bool:
        """Whether the times are rounded to the rows of a table; if not, its log-SNR is interpolated between rows."""
        return True

    @property
    def repeats(self) -> bool:
        """Whether a time may follow itself, in a step of length 0, for the samplers that allow it."""
        return False

    @abstractmethod
    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        """The ``steps`` times at which the denoiser is evaluated, decreasing, in (0, 1]."""

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """The times, rounded to the rows of a table if the grid is ``on_rows``.

        Raises ConfigError unless they are ``steps`` in number and decrease strictly from at most 1; a grid that
        ``repeats`` may have equal ones.
        """
        times = self.noisy_times(steps, schedule)
        if len(times) != steps:
            raise ConfigError(
                f"the grid has {len(times)} times, but sampler.steps={steps}; set sampler.steps={len(times)}, "
                "or change grid"
            )
        if self.on_rows:
            times = schedule.snap(times)
        times = torch.cat([times, times.new_zeros(1)])
        steps_back = times.diff()
        decrease = (steps_back <= 0) & (times[1:] > 0) | (steps_back < 0) if self.repeats else steps_back < 0
        if not bool(decrease.all()) or times[0] > 1:
            raise ConfigError(
                f"sampler.steps={steps}: the times of the grid do not decrease on this schedule "
                f"(its smallest noisy time is {schedule.t_min:g}); lower sampler.steps or change grid"
            )
        return times


@register("grid", "uniform")
@register("grid", "trailing")
@dataclass(frozen=True)
class Uniform(Grid):
    """t_j = start (1 - j / N), j = 0 .. N - 1, rounded to the rows of a table.

    On a table this is the "trailing" spacing (Lin et al. 2024, table 2); N = num_steps visits every row, as DDPM does.

    ``start`` below 1 skips a prefix of the reverse process, on variance-preserving paths: pure noise is taken for x_t
    at t = start. start=0.8 with N = 0.8 num_steps is 20% skipped in Nichol & Dhariwal 2021, figure 4. Raises
    ConfigError on other paths.
    """

    start: Annotated[float, Range(0, 1, low_open=True)] = 1.0

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        if self.start < 1:
            level = schedule(schedule.snap(torch.tensor(self.start, dtype=torch.float64)))
            power = float(level.alpha.square() + level.sigma.square())
            if abs(power - 1) > PRESERVED:
                raise ConfigError(
                    f"grid.start={self.start:g}: pure noise stands for x_t on variance-preserving paths alone, but "
                    f"this schedule has alpha^2 + sigma^2 = {power:.4g} there; set grid.start=1, or change schedule"
                )
        return self.start * (1 - torch.arange(steps, dtype=torch.float64) / steps)


@register("grid", "leading")
@dataclass(frozen=True)
class Leading(Grid):
    """DDPM's indices floor(j T / N), j = N - 1 .. 0, on a table of T rows; T = 1 / t_min on a continuous schedule.

    Song et al. 2020, appendix D.2, "linear"; it starts one stride below pure noise.
    """

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        rows = round(1 / schedule.t_min)
        return (torch.arange(steps - 1, -1, -1) * rows // steps + 1).double() / rows


@register("grid", "linspace")
@dataclass(frozen=True)
class Linspace(Grid):
    """N even times from 1 to t_min, both included, then 0: on a table DDPM's indices T - 1 .. 0.

    Nichol & Dhariwal 2021, section 4 (the spacing of its respaced sampling); Lin et al. 2024, table 2.

    ``interpolate`` leaves the times between the rows of a table, where log-SNR and the time label are interpolated, so
    that N may exceed its rows: sampler.steps=2000 on a table of 1000 rows is P2000 of Song et al. 2021, table 1 and
    appendix G, for networks that take any label. (There betas are halved, or sigmas placed anew; here log-SNR is linear
    between rows.)
    """

    interpolate: bool = False

    @property
    def on_rows(self) -> bool:
        return not self.interpolate

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        return torch.linspace(1, schedule.t_min, steps, dtype=torch.float64)


@register("grid", "quadratic")
@dataclass(frozen=True)
class Quadratic(Grid):
    """DDPM's indices floor((j / (N - 1))^2 0.8 T), j = N - 1 .. 0, on a table; T = 1 / t_min on a continuous schedule.

    Song et al. 2020, appendix D.2, "quadratic". Where two squares round to one index (T = 1000: 0 is visited twice for
    N = 50 and four times for N = 100), the later ones move to the next free indices. ``repeat`` visits an index as
    often as the paper's code does: the step from an index to itself evaluates the model and leaves x_t unchanged.
    """

    repeat: bool = False

    @property
    def repeats(self) -> bool:
        return self.repeat

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        rows = round(1 / schedule.t_min)
        root = torch.linspace((0.8 * rows) ** 0.5, 0, steps, dtype=torch.float64).flip(0)
        # 800 is the square of a root that float64 rounds down.
        index = (root.square() + 1e-6).floor()
        if not self.repeat:
            rank = torch.arange(steps)
            index = (index - rank).cummax(0).values + rank
        return (index.flip(0) + 1) / rows


@register("grid", "respaced")
@dataclass(frozen=True)
class Respaced(Grid):
    """Some of DDPM's indices: "250" even ones, "10,20,30" even ones in each of three parts, "ddim50" by one stride.

    Nichol & Dhariwal 2021, section 4. The list [10,20,30] means "10,20,30"; without a spec it is sampler.steps. On a
    continuous schedule T = 1 / t_min. Raises ConfigError for another notation, for a part with fewer indices than its
    count, where no stride fits, and where the number of times is not sampler.steps.
    """

    spec: PositiveInt | Name | tuple[PositiveInt, ...] | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(ddim)?[1-9]\d*|[1-9]\d*(,[1-9]\d*)*", self.notation(1)):
            raise ConfigError(f'grid.spec={self.spec!r}: must be a number of steps, "ddimN" or "N,N,..." with N >= 1')

    def notation(self, steps: int) -> str:
        """The spec in the notation of improved DDPM."""
        if self.spec is None:
            return str(steps)
        return ",".join(map(str, self.spec)) if isinstance(self.spec, tuple) else str(self.spec).replace(" ", "")

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        rows, notation = round(1 / schedule.t_min), self.notation(steps)
        indices = strided(rows, int(notation[4:])) if notation.startswith("ddim") else even(rows, notation.split(","))
        return (torch.tensor(indices, dtype=torch.float64).flip(0) + 1) / rows


def strided(rows: int, count: int) -> list[int]:
    """The indices 0, s, 2 s, .. < rows, ``count`` in number; ConfigError if no integer s gives that many."""
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
                f"the {count} that it needs; lower grid.spec or sampler.steps"
            )
        stride = (size - 1) / max(1, count - 1)
        indices += [start + round(j * stride) for j in range(count)]
        start += size
    return indices


@register("grid", "karras")
@dataclass(frozen=True)
class Karras(Grid):
    """s_j = (s_0^(1/rho) + j / (N - 1) (s_{N-1}^(1/rho) - s_0^(1/rho)))^rho, s = sigma / alpha, j = 0 .. N - 1.

    Karras et al. 2022, equation 5. s_0 = sigma_max and s_{N-1} = sigma_min, limited to the schedule's range. The first
    time is always 1, where x_T is drawn. Between rows of a table log-SNR is interpolated.
    """

    rho: Positive = 7.0
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0

    on_rows: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.sigma_max <= self.sigma_min:
            raise ConfigError(f"grid.sigma_max={self.sigma_max:g} must be above grid.sigma_min={self.sigma_min:g}")

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        log_sigmas = torch.tensor([self.sigma_max, self.sigma_min], dtype=torch.float64).log()
        ends = schedule(schedule.time(-2 * log_sigmas).clamp(min=schedule.t_min)).log_snr
        first, last = torch.exp(-ends / 2 / self.rho).tolist()
        log_ratio = self.rho * torch.linspace(first, last, steps, dtype=torch.float64).log()
        times = schedule.time(-2 * log_ratio)
        times[0] = 1
        return times


@register("grid", "log_snr")
@dataclass(frozen=True)
class LogSNR(Grid):
    """log_snr_j = low + j / (N - 1) (high - low), j = 0 .. N - 1.

    Lu et al. 2022a, section 3.4 and appendix E. low and high are log_snr_min and log_snr_max, limited to the schedule's
    range. The first time is always 1, where x_T is drawn. Between rows of a table log-SNR is interpolated.
    """

    log_snr_min: float = -14.0
    log_snr_max: float = 14.0

    on_rows: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.log_snr_max <= self.log_snr_min:
            raise ConfigError(
                f"grid.log_snr_max={self.log_snr_max:g} must be above grid.log_snr_min={self.log_snr_min:g}"
            )

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        ends = torch.tensor([self.log_snr_min, self.log_snr_max], dtype=torch.float64)
        low, high = schedule(schedule.time(ends).clamp(min=schedule.t_min)).log_snr.tolist()
        times = schedule.time(torch.linspace(low, high, steps, dtype=torch.float64))
        times[0] = 1
        return times


@register("grid", "levels_of")
@dataclass(frozen=True)
class LevelsOf(Grid):
    """The log-SNRs of another schedule at N even times, from pure noise to its time ``last`` (or its first row).

    Karras et al. 2022, table 1, "time steps", for a model on the path of EDM: schedule=vp last=1e-3 are those of VP,
    and schedule=cosine, with even rows, those of iDDPM. (Those of VE are even in log sigma: grid=log_snr.) The ends are
    limited to the range of the sampler's schedule, and the first time is always 1, where x_T is drawn. ``parameters``
    are those of the other schedule. Between rows of a table log-SNR is interpolated.
    """

    schedule: Name = "vp"
    last: OpenFraction = 1e-3
    parameters: dict[str, bool | int | float | Name] = field(default_factory=dict)

    on_rows: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _ = self.other

    @functools.cached_property
    def other(self) -> Schedule:
        """The schedule whose levels are taken."""
        return registry.build("schedule", self.schedule, **self.parameters)

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        ends = self.other(torch.tensor([1.0, max(self.last, self.other.t_min)], dtype=torch.float64)).log_snr
        reached = schedule(schedule.time(ends).clamp(min=schedule.t_min)).log_snr
        first, last = self.other.time(reached).clamp(max=1).tolist()
        even = torch.linspace(first, last, steps, dtype=torch.float64)
        times = schedule.time(self.other(self.other.snap(even)).log_snr)
        times[0] = 1
        return times


@register("grid", "explicit")
@dataclass(frozen=True)
class Explicit(Grid):
    """The given times in [0, 1], decreasing; a 0 at the end is optional. On a table each is rounded to the nearest row.

    Raises ConfigError where they do not decrease, lie outside [0, 1], or are not sampler.steps in number (without 0).
    """

    times: tuple[Fraction, ...]

    def __post_init__(self) -> None:
        if not any(self.times) or any(s >= t for t, s in itertools.pairwise(self.times)):
            raise ConfigError(f"grid.times={list(self.times)}: must decrease from at most 1, the first above 0")

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        return torch.tensor([t for t in self.times if t > 0], dtype=torch.float64)
