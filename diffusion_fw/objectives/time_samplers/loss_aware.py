"""Improved DDPM's importance sampling: rows in proportion to the size of their loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.objectives.time_sampler import TimeSampler
from diffusion_fw.process.schedule import DiscreteSchedule, Schedule
from diffusion_fw.registry import ConfigError, Fraction, PositiveInt, register


@register("time_sampler", "loss_aware")
class LossAware(TimeSampler):
    """Row k with p_k in proportion to sqrt(E[L_k^2]) over its last losses, and the loss weighted by 1 / (T p_k).

    Nichol & Dhariwal 2021, section 3.3: rows are drawn uniformly until each has ``history`` losses, and always with
    probability ``uniform``. Meant for weighting=elbo, whose terms differ most in size.
    """

    def __init__(self, history: PositiveInt = 10, uniform: Fraction = 0.001) -> None:
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
        # A row's losses go to consecutive places of its ring; of more than it holds only the last are kept.
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
