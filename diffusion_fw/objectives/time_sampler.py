"""How training draws the times of a batch: t = Q(u) for a uniform u, or rows of a table.

discrete      t = k / T, k uniform on the rows 1 .. T
uniform       t uniform on the noisy times
log_normal    log(sigma / alpha) ~ N(mean, std^2)
logit_normal  log(t / (1 - t)) ~ N(mean, std^2)
loss_aware    row k with p_k proportional to sqrt(E[L_k^2]) over its last losses, the loss times 1 / (T p_k)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.process.schedule import DiscreteSchedule, Schedule
from diffusion_fw.registry import ConfigError, Fraction, Positive, Size, register


class TimeSampler(ABC):
    """Draws times, with randomness from the generator alone.

    One that learns where to draw keeps tensors, which ``update`` changes after each step and checkpoints store. For all
    others these methods do nothing.
    """

    @abstractmethod
    def __call__(self, count: int, schedule: Schedule, generator: torch.Generator | None = None) -> Tensor:
        """(count,) float64 times in [schedule.t_min, 1] for the global batch.

        Raises ConfigError for a schedule that has no such times.
        """

    def quantiles(self, count: int, schedule: Schedule) -> Tensor:
        """(count,) float64 times at the quantiles (i + 1/2) / count of the times that the expected loss is over.

        For a sampler whose weights keep the expectation under uniform times, those are the uniform ones.
        """
        return schedule.fraction(midpoints(count))

    def weight(self, t: Tensor) -> Tensor:
        """The factor of the loss at the times t just drawn, float64, of t's shape.

        1, unless the sampling is meant to lower the variance of the loss alone: then 1 / (density of t relative to
        uniform times), which keeps its expectation. Call it before ``update``.
        """
        return torch.ones_like(t)

    def update(self, t: Tensor, loss: Tensor) -> None:  # noqa: B027 - most learn nothing
        """Learn from the unweighted losses at all times of the step, those of every process included."""

    def state_dict(self) -> dict[str, Any]:
        """The tensors that ``update`` has changed."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most learn nothing
        """Continue from a ``state_dict``."""


@dataclass(frozen=True)
class InverseTimeSampler(TimeSampler):
    """t = Q(u) with Q the inverse of the distribution function of t and u uniform on [0, 1).

    stratified draws one u and uses u_i = (i + u) / n in random order, so that every global batch covers the
    distribution evenly (Kingma et al. 2021, appendix I.1). Otherwise the u_i are independent.
    """

    stratified: bool = False

    @abstractmethod
    def times(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Q(u), float64, for u of any shape."""

    def quantiles(self, count: int, schedule: Schedule) -> Tensor:
        return self.times(midpoints(count), schedule)

    def __call__(self, count: int, schedule: Schedule, generator: torch.Generator | None = None) -> Tensor:
        if self.stratified:
            order = torch.randperm(count, generator=generator)
            u = (order + torch.rand(1, dtype=torch.float64, generator=generator)) / count
        else:
            u = torch.rand(count, dtype=torch.float64, generator=generator)
        return self.times(u, schedule)


def midpoints(count: int) -> Tensor:
    """(count,) float64: the middles of ``count`` equal parts of [0, 1]."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def noisy(t: Tensor, schedule: Schedule) -> Tensor:
    """The nearest times at which the schedule is noisy: rows 1 .. T of a table, [t_min, 1] of a continuous one."""
    return schedule.snap(t).clamp(schedule.t_min, 1)


@register("time_sampler", "discrete")
@dataclass(frozen=True)
class Discrete(TimeSampler):
    """t = k / T with k uniform on 1 .. T. Ho et al. 2020, algorithm 1."""

    def __call__(self, count: int, schedule: Schedule, generator: torch.Generator | None = None) -> Tensor:
        if not isinstance(schedule, DiscreteSchedule):
            raise ConfigError(
                "time_sampler=discrete draws rows of a table, but this schedule is continuous; "
                "choose time_sampler=uniform, or a table such as schedule=cosine"
            )
        rows = torch.randint(1, schedule.num_steps + 1, (count,), generator=generator)
        return rows.double() / schedule.num_steps


@register("time_sampler", "uniform")
@dataclass(frozen=True)
class UniformTime(InverseTimeSampler):
    """t = t_min + (1 - t_min) u with u uniform on [0, 1); on a table the row k = floor(u T) + 1.

    Song et al. 2021, equation 7.
    """

    def times(self, u: Tensor, schedule: Schedule) -> Tensor:
        return schedule.fraction(u)


@register("time_sampler", "log_normal")
@dataclass(frozen=True)
class LogNormal(InverseTimeSampler):
    """log(sigma / alpha) ~ N(mean, std^2), at the nearest noisy time of any schedule. Karras et al. 2022, table 1."""

    mean: float = -1.2
    std: Positive = 1.2

    def times(self, u: Tensor, schedule: Schedule) -> Tensor:
        log_ratio = self.mean + self.std * torch.special.ndtri(u)
        return noisy(schedule.time(-2 * log_ratio), schedule)


@register("time_sampler", "logit_normal")
@dataclass(frozen=True)
class LogitNormal(InverseTimeSampler):
    """log(t / (1 - t)) ~ N(mean, std^2), at the nearest noisy time. Esser et al. 2024 (SD3), equation 19."""

    mean: float = 0.0
    std: Positive = 1.0

    def times(self, u: Tensor, schedule: Schedule) -> Tensor:
        return noisy(torch.sigmoid(self.mean + self.std * torch.special.ndtri(u)), schedule)


@register("time_sampler", "loss_aware")
class LossAware(TimeSampler):
    """Row k with p_k proportional to sqrt(E[L_k^2]) over its last losses; the loss is weighted by 1 / (T p_k).

    Nichol & Dhariwal 2021, section 3.3. Rows are drawn uniformly until each has ``history`` losses, and afterwards with
    probability ``uniform``. Meant for weighting=elbo and objective=vlb, whose terms differ most in size.
    """

    def __init__(self, history: Size = 10, uniform: Fraction = 0.001) -> None:
        self.history, self.uniform = history, uniform
        self._losses = torch.zeros(0, history, dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.long)

    def probabilities(self) -> Tensor:
        """p_1 .. p_T, float64."""
        rows = len(self._counts)
        even = torch.full((rows,), 1 / rows, dtype=torch.float64)
        if bool((self._counts < self.history).any()):
            return even
        size = self._losses.square().mean(1).sqrt()
        if not bool(size.sum() > 0):
            return even
        return (1 - self.uniform) * size / size.sum() + self.uniform * even

    def __call__(self, count: int, schedule: Schedule, generator: torch.Generator | None = None) -> Tensor:
        if not isinstance(schedule, DiscreteSchedule):
            raise ConfigError(
                "time_sampler=loss_aware learns a loss for each row of a table, but this schedule is continuous; "
                "choose time_sampler=uniform, or a table such as schedule=cosine"
            )
        if len(self._counts) != schedule.num_steps:
            self._losses = torch.zeros(schedule.num_steps, self.history, dtype=torch.float64)
            self._counts = torch.zeros(schedule.num_steps, dtype=torch.long)
        rows = torch.multinomial(self.probabilities(), count, replacement=True, generator=generator)
        return (rows + 1).double() / schedule.num_steps

    def weight(self, t: Tensor) -> Tensor:
        p = self.probabilities()
        return 1 / (len(p) * p[self._rows(t)]).to(t.device)

    def update(self, t: Tensor, loss: Tensor) -> None:
        rows, order = self._rows(t).sort(stable=True)
        values = loss.detach().to(device="cpu", dtype=torch.float64)[order]
        found, sizes = rows.unique_consecutive(return_counts=True)
        # A row's losses go to consecutive places of its ring buffer, which keeps the last ``history``.
        rank = torch.arange(len(rows)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        kept = rank >= sizes.repeat_interleave(sizes) - self.history
        places = (self._counts[rows] + rank) % self.history
        self._losses[rows[kept], places[kept]] = values[kept]
        self._counts[found] += sizes

    def _rows(self, t: Tensor) -> Tensor:
        return (t.cpu() * len(self._counts)).round().long() - 1

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self._losses.clone(), "counts": self._counts.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._losses, self._counts = state["losses"].clone(), state["counts"].clone()
