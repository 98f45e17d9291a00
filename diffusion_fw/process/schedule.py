"""Schedules: the path x_t = alpha(t) x_0 + sigma(t) eps for t in [0, 1], from clean data at 0 to noise at 1.

With snr = (alpha / sigma)^2, log_snr = log snr falls strictly in t, from +inf at t = 0. All else follows from the path:

    t(log_snr)                          its inverse
    f = d log alpha / dt                the SDE dx = f x dt + g dw whose marginals are those of the path
    g^2 = -sigma^2 d log_snr / dt
    w = -1/2 d snr / dt                 the weight of |x_0 - x_0_hat|^2 in the variational bound

A LogSNRSchedule states log_snr(t) on one of the paths of level.py. A DiscreteSchedule is a table of T levels at
t = k / T, k = 1 .. T, whose log_snr is interpolated linearly between rows, and whose weight is the difference
T / 2 (snr_{k-1} - snr_k). A BetaSchedule is a variance-preserving table: alpha_k^2 = prod_{j <= k} (1 - beta_j).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel, variance_preserving
from diffusion_fw.registry import AutoDiameter, ConfigError, Positive, Range, Runtime


def bisect(log_snr: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
    """t in [0, 1] with log_snr(t) = target for a decreasing log_snr, float64; 0 for +inf."""
    low, high = torch.zeros_like(target), torch.ones_like(target)
    for _ in range(64):
        middle = (low + high) / 2
        above = log_snr(middle) > target
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return torch.where(torch.isposinf(target), 0.0, high)


class Schedule(ABC):
    """The path x_t = alpha(t) x_0 + sigma(t) eps; time 0 is clean data: alpha = 1, sigma = 0."""

    @abstractmethod
    def __call__(self, t: Tensor) -> NoiseLevel:
        """The level at times t in [0, 1], of any shape; float64."""

    @property
    def t_min(self) -> float:
        """The smallest time that counts as noisy: 1e-5 for a continuous schedule (Song et al. 2021, appendix C)."""
        return 1e-5

    def snap(self, t: Tensor) -> Tensor:
        """The nearest times at which the schedule is defined: t itself, unless it is a table."""
        return t

    def fraction(self, u: Tensor) -> Tensor:
        """The time below which a fraction u in [0, 1] of the noisy times lies: uniform u give uniform noisy times."""
        return self.t_min + (1 - self.t_min) * u

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse, t with log_snr(t) = log_snr, in [0, 1]: by bisection in float64 unless overridden."""
        return bisect(lambda t: self(t).log_snr, torch.as_tensor(log_snr, dtype=torch.float64))

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """f = d log alpha / dt and g^2 = -sigma^2 d log_snr / dt of the SDE dx = f x dt + g dw (Song et al. 2021)."""
        t = torch.as_tensor(t, dtype=torch.float64)

        def curve(time: Tensor) -> tuple[Tensor, Tensor]:
            level = self(time)
            return level.alpha.log(), level.log_snr

        f, slope = torch.func.jvp(curve, (t,), (torch.ones_like(t),))[1]
        return f, -self(t).sigma.square() * slope

    def elbo_weight(self, t: Tensor) -> Tensor:
        """-1/2 d snr / dt, the weight of |x_0 - x_0_hat|^2 in the variational bound, for t uniform on [0, 1].

        Kingma et al. 2021, equations 16 and 17, in nats; -1/2 d log_snr / dt in the space of eps.
        """
        level = self(t)
        _, g_squared = self.rates(t)
        weight = level.log_snr.exp() * g_squared / level.sigma.square() / 2
        # snr falls to 0 with a slope of 0: flow and cosine_continuous at t = 1.
        return torch.where(torch.isneginf(level.log_snr), 0.0, weight)


@dataclass(frozen=True)
class LogSNRSchedule(Schedule):
    """A continuous schedule stated as log_snr(t) on a path; shift moves all of it by -2 log(shift).

    shift adapts it to a resolution: with shift = d / d_0, an image of side d that is averaged down to side d_0 has the
    log_snr of the schedule for side d_0 (Hoogeboom et al. 2023, section 3.1). On the linear interpolant this is
    t' = shift t / (1 + (shift - 1) t) (Esser et al. 2024, equation 23).
    """

    shift: Positive = field(default=1.0, kw_only=True)

    path: ClassVar[Callable[[Tensor], tuple[Tensor, Tensor]]] = staticmethod(variance_preserving)

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """log_snr for shift = 1 at float64 times, decreasing, +inf at t = 0."""

    def inverse(self, log_snr: Tensor) -> Tensor:
        """The time of a float64 log_snr for shift = 1, by bisection unless overridden; ``time`` clamps it to (0, 1]."""
        return bisect(self.log_snr, log_snr)

    def __call__(self, t: Tensor) -> NoiseLevel:
        t = torch.as_tensor(t, dtype=torch.float64)
        log_snr = self.log_snr(t) - 2 * math.log(self.shift)
        return NoiseLevel(t, *type(self).path(log_snr), log_snr)

    def time(self, log_snr: Tensor) -> Tensor:
        target = torch.as_tensor(log_snr, dtype=torch.float64)
        t = self.inverse(target + 2 * math.log(self.shift)).clamp(torch.finfo(torch.float64).tiny, 1)
        return torch.where(torch.isposinf(target), 0.0, t)


TableLength = Annotated[int, Range(1, 1_000_000)]
"""The number of noisy rows of a table; bounded, so that no config can ask for all memory."""


@dataclass(frozen=True)
class DiscreteSchedule(Schedule):
    """A table of num_steps noise levels at t = k / num_steps, k = 1 .. num_steps, below a clean row k = 0.

    DDPM's index i is k = i + 1. Between two noisy rows log_snr is interpolated linearly. Times between 0 and the first
    noisy row, or between the last two rows if the last is pure noise, raise a ConfigError.
    """

    num_steps: TableLength = 1000

    path: ClassVar[Callable[[Tensor], tuple[Tensor, Tensor]]] = staticmethod(variance_preserving)

    @abstractmethod
    def log_snrs(self) -> Tensor:
        """log_snr of the noisy rows k = 1 .. num_steps, float64, decreasing."""

    @functools.cached_property
    def table(self) -> NoiseLevel:
        """The num_steps + 1 rows, row 0 clean."""
        log_snr = torch.cat([torch.tensor([torch.inf], dtype=torch.float64), self.log_snrs()])
        if not bool((log_snr.diff() < 0).all()):
            raise ConfigError("schedule: the noise does not grow from row to row; change the schedule's parameters")
        t = torch.arange(self.num_steps + 1, dtype=torch.float64) / self.num_steps
        alpha, sigma = type(self).path(log_snr)
        return NoiseLevel(t, alpha, sigma, log_snr)

    @property
    def t_min(self) -> float:
        return 1 / self.num_steps

    def snap(self, t: Tensor) -> Tensor:
        return (torch.as_tensor(t, dtype=torch.float64) * self.num_steps).round() / self.num_steps

    def fraction(self, u: Tensor) -> Tensor:
        return ((u * self.num_steps).floor() + 1).clamp(max=self.num_steps) / self.num_steps

    def __call__(self, t: Tensor) -> NoiseLevel:
        t = torch.as_tensor(t, dtype=torch.float64)
        position = t * self.num_steps
        row = position.round().long()
        # A time that passed through float32 still selects its row.
        between = (position - row).abs() >= 1e-7 * self.num_steps
        table = self.table.map(lambda value: value.to(t.device))
        if not bool(between.any()):
            return dataclasses.replace(table[row], t=t)
        lower = position.floor().long().clamp(0, self.num_steps - 1)
        if bool((between & (lower == 0)).any()):
            raise ConfigError(
                f"schedule is a table of {self.num_steps} rows and has no time between 0 and {self.t_min:g}; "
                "choose a grid of larger times, or a continuous schedule such as schedule=vp"
            )
        if bool((between & table.log_snr[lower + 1].isneginf()).any()):
            raise ConfigError(
                f"schedule is a table of {self.num_steps} rows whose last is pure noise, and has no time between the "
                "last two; choose a grid of rows such as grid=uniform, or schedule.zero_terminal_snr=false"
            )
        log_snr = torch.lerp(table.log_snr[lower], table.log_snr[lower + 1], position - lower)
        log_snr = torch.where(between, log_snr, table.log_snr[row])
        return NoiseLevel(t, *type(self).path(log_snr), log_snr)

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of the interpolated table: clean for +inf, clamped to the noisy rows otherwise."""
        target = torch.as_tensor(log_snr, dtype=torch.float64)
        noisy = self.table.log_snr[1:].to(target.device)
        if self.num_steps == 1:
            return torch.where(torch.isposinf(target), 0.0, torch.ones_like(target))
        upper = torch.searchsorted(-noisy, -target.contiguous()).clamp(1, self.num_steps - 1)
        fraction = ((noisy[upper - 1] - target) / (noisy[upper - 1] - noisy[upper])).nan_to_num(1.0).clamp(0, 1)
        return torch.where(torch.isposinf(target), 0.0, (upper + fraction) / self.num_steps)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        raise ConfigError(
            "schedule is a table and has no derivative in time, which this sampler needs; "
            "choose a continuous schedule such as schedule=vp, or a sampler made for tables such as sampler=ddim"
        )

    def elbo_weight(self, t: Tensor) -> Tensor:
        """T / 2 (snr_{k-1} - snr_k), the weight in T L_{k-1} of the nearest row k; T / (2 sigma_1^2) at the first row.

        Kingma et al. 2021, equation 13. L_0 is the term of a Gaussian decoder of variance sigma_1^2 (Ho et al. 2020,
        section 3.3, without its discretization).
        """
        t = self.snap(t).clamp(min=self.t_min)
        level, before = self(t), self((t - 1 / self.num_steps).clamp(min=self.t_min))
        difference = before.log_snr.exp() - level.log_snr.exp()
        first = (t * self.num_steps).round() == 1
        return self.num_steps / 2 * torch.where(first, 1 / level.sigma.square(), difference)


@dataclass(frozen=True)
class BetaSchedule(DiscreteSchedule):
    """A variance-preserving table from DDPM's betas: alpha_k^2 = prod_{j <= k} (1 - beta_j), sigma_k^2 = 1 - alpha_k^2.

    zero_terminal_snr rescales it so that alpha is 0 at the last row (Lin et al. 2024, algorithm 1).
    """

    zero_terminal_snr: bool = False

    @abstractmethod
    def betas(self) -> Tensor:
        """beta_1 .. beta_T in (0, 1), float64."""

    def log_snrs(self) -> Tensor:
        betas = self.betas()
        if not bool(((betas > 0) & (betas < 1)).all()):
            raise ConfigError(
                f"schedule: betas reach from {betas.min().item():.3g} to {betas.max().item():.3g} but must lie in "
                f"(0, 1); change the betas or schedule.num_steps={self.num_steps}"
            )
        log_alpha_bar = torch.log1p(-betas).cumsum(0)
        if self.zero_terminal_snr:
            alpha = torch.exp(log_alpha_bar / 2)
            alpha = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
            log_alpha_bar = 2 * alpha.log()
        return log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))


@dataclass(frozen=True)
class GeometricNoise:
    """The range sigma_min .. sigma_max of ncsn and ve, in which log sigma is linear in time.

    The defaults are the papers' for CIFAR-10, 0.01 and 50 for data in [0, 1], twice as large for data in [-1, 1] as
    they are here.

    sigma_max=auto is the largest Euclidean distance between two training examples, data_diameter, so that sampling can
    move from any of them to any other (Song & Ermon 2020, technique 1).
    """

    sigma_min: Positive = 0.02
    sigma_max: Positive | AutoDiameter = 100.0
    data_diameter: Runtime[float | None] = None

    def __post_init__(self) -> None:
        if self.sigma_max == "auto" and self.data_diameter is None:
            raise ConfigError(
                "schedule.sigma_max=auto needs the largest distance between two training examples, but no data is "
                "given here; set schedule.sigma_max to a number"
            )
        if self.log_sigmas[1] <= self.log_sigmas[0]:
            raise ConfigError(
                f"schedule.sigma_max={self.sigma_max} ({math.exp(self.log_sigmas[1]):g}) must be above "
                f"schedule.sigma_min={self.sigma_min:g}"
            )
        # From here on it is a number.
        object.__setattr__(self, "sigma_max", self.data_diameter if self.sigma_max == "auto" else self.sigma_max)

    @property
    def log_sigmas(self) -> tuple[float, float]:
        """log sigma_min and log sigma_max."""
        largest = self.data_diameter if self.sigma_max == "auto" else self.sigma_max
        assert largest is not None
        return math.log(self.sigma_min), math.log(largest)
