"""Continuous schedules: alpha(t) and sigma(t) for t in [0, 1], with analytic inverses.

    vp                 log alpha = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2,  sigma^2 = 1 - alpha^2
    sub_vp             alpha of vp,  sigma = 1 - alpha^2
    ve                 alpha = 1,  sigma = sigma_min (sigma_max / sigma_min)^t for t > 0
    edm                alpha = 1,  sigma = sigma_max t^power,  power = 1
    cosine_continuous  alpha = cos(pi/2 (t + s) / (1 + s)) / cos(pi/2 s / (1 + s)),  sigma^2 = 1 - alpha^2
    laplace            log_snr = mu - b log(2 t) below t = 1/2, mu + b log(2 - 2 t) above,  alpha^2 + sigma^2 = 1
    linear_log_snr     log_snr = (1 - t) log_snr_max + t log_snr_min for t > 0,  alpha^2 + sigma^2 = 1
    flow               alpha = 1 - t,  sigma = t + sigma_min (1 - t) for t > 0

``shift`` moves log_snr of the last four by -2 log(shift).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffusion_fw.process.level import NoiseLevel, linear_interpolant, variance_exploding
from diffusion_fw.process.schedule import GeometricNoise, LogSNRSchedule, Schedule
from diffusion_fw.registry import ConfigError, NonNegative, OpenFraction, Positive, register


@register("schedule", "vp")
@dataclass(frozen=True)
class VP(Schedule):
    """log alpha = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2, sigma^2 = 1 - alpha^2.

    Song et al. 2021, equation 33: the limit of DDPM's linear betas, beta(t) = beta_min + t (beta_max - beta_min).
    """

    beta_min: Positive = 0.1
    beta_max: Positive = 20.0

    def __post_init__(self) -> None:
        if self.beta_max <= self.beta_min:
            raise ConfigError(f"schedule.beta_max={self.beta_max:g} must be above schedule.beta_min={self.beta_min:g}")

    def log_alpha(self, t: Tensor) -> Tensor:
        """log alpha at float64 times."""
        return -t.square() * (self.beta_max - self.beta_min) / 4 - t * self.beta_min / 2

    def time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        """The inverse of ``log_alpha``, clamped to at most 1."""
        slope = self.beta_max - self.beta_min
        t = -4 * log_alpha / (self.beta_min + (self.beta_min**2 - 4 * slope * log_alpha).sqrt())
        # inf / inf at alpha = 0.
        return t.nan_to_num(torch.inf).clamp(max=1)

    def __call__(self, t: Tensor) -> NoiseLevel:
        t = torch.as_tensor(t, dtype=torch.float64)
        log_alpha = self.log_alpha(t)
        variance = -torch.expm1(2 * log_alpha)
        return NoiseLevel(t, log_alpha.exp(), variance.sqrt(), 2 * log_alpha - variance.log())

    def time(self, log_snr: Tensor) -> Tensor:
        return self.time_of_log_alpha(logsigmoid(torch.as_tensor(log_snr, dtype=torch.float64)) / 2)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        beta = self.beta_min + torch.as_tensor(t, dtype=torch.float64) * (self.beta_max - self.beta_min)
        return -beta / 2, beta


@register("schedule", "sub_vp")
@dataclass(frozen=True)
class SubVP(VP):
    """alpha as vp, sigma = 1 - alpha^2; g^2 = beta (1 - alpha^4). Song et al. 2021, equations 28 and 29."""

    def __call__(self, t: Tensor) -> NoiseLevel:
        t = torch.as_tensor(t, dtype=torch.float64)
        log_alpha = self.log_alpha(t)
        sigma = -torch.expm1(2 * log_alpha)
        return NoiseLevel(t, log_alpha.exp(), sigma, 2 * (log_alpha - sigma.log()))

    def time(self, log_snr: Tensor) -> Tensor:
        # sigma / alpha = 1 / alpha - alpha = 2 sinh(-log alpha).
        ratio = torch.exp(-torch.as_tensor(log_snr, dtype=torch.float64) / 2)
        return self.time_of_log_alpha(-torch.asinh(ratio / 2))

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=torch.float64)
        f, beta = super().rates(t)
        return f, -beta * torch.expm1(4 * self.log_alpha(t))


@register("schedule", "ve")
@dataclass(frozen=True)
class VE(GeometricNoise, Schedule):
    """alpha = 1, sigma(t) = sigma_min (sigma_max / sigma_min)^t for t > 0, and clean data at t = 0.

    Song et al. 2021, equation 31 and appendix C, where sigma jumps from sigma_min to 0 at t = 0 too, and levels are
    half as large, for data in [0, 1]. sigma_max=auto is the largest distance between two training examples.
    """

    def __call__(self, t: Tensor) -> NoiseLevel:
        t = torch.as_tensor(t, dtype=torch.float64)
        smallest, largest = self.log_sigmas
        log_snr = torch.where(t > 0, -2 * (smallest + t * (largest - smallest)), torch.inf)
        return NoiseLevel(t, *variance_exploding(log_snr), log_snr)

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse; t_min for levels between clean data and sigma_min."""
        target = torch.as_tensor(log_snr, dtype=torch.float64)
        smallest, largest = self.log_sigmas
        t = (-target / 2 - smallest) / (largest - smallest)
        t = torch.where(t > 0, t, self.t_min).clamp(max=1)
        return torch.where(torch.isposinf(target), 0.0, t)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=torch.float64)
        smallest, largest = self.log_sigmas
        variance = torch.exp(2 * (smallest + t * (largest - smallest)))
        return torch.zeros_like(t), 2 * (largest - smallest) * variance


@register("schedule", "cosine_continuous")
@dataclass(frozen=True)
class CosineContinuous(LogSNRSchedule):
    """alpha^2 = f(t) / f(0), f(t) = cos(pi/2 (t + s) / (1 + s))^2, sigma^2 = 1 - alpha^2; alpha = 0 at t = 1.

    Nichol & Dhariwal 2021, equation 17; log_snr = -2 log tan(pi t / 2) for s = 0 (Hoogeboom et al. 2023, section 2).
    1 - alpha^2 cancels near t = 0 and is written sigma^2 f(0) = sin(pi/2 t / (1 + s)) sin(pi/2 (t + 2 s) / (1 + s)).
    """

    s: NonNegative = 0.008

    def log_snr(self, t: Tensor) -> Tensor:
        quarter = math.pi / 2 / (1 + self.s)
        signal = torch.sin(quarter * (1 - t)).log()
        noise = torch.sin(quarter * t).log() + torch.sin(quarter * (t + 2 * self.s)).log()
        return 2 * signal - noise

    def inverse(self, log_snr: Tensor) -> Tensor:
        start = math.pi / 2 * self.s / (1 + self.s)
        sine = (math.sin(start) ** 2 + math.cos(start) ** 2 * torch.sigmoid(-log_snr)).sqrt()
        cosine = math.cos(start) * torch.sigmoid(log_snr).sqrt()
        return (torch.atan2(sine, cosine) - start) * (1 + self.s) / (math.pi / 2)


@register("schedule", "laplace")
@dataclass(frozen=True)
class Laplace(LogSNRSchedule):
    """log_snr = mu - b sgn(1/2 - u) log(1 - 2 |u - 1/2|), alpha^2 + sigma^2 = 1. Hang et al. 2024, table 1.

    The distribution is cut off at log_snr_min, so that alpha(1) > 0: u = c t with log_snr(t = 1) = log_snr_min
    (1 - c = 5e-14 for the defaults). At t = 0 the data is clean.
    """

    mu: float = 0.0
    b: Positive = 0.5
    log_snr_min: float = -15.0

    def __post_init__(self) -> None:
        if self.log_snr_min >= self.mu:
            raise ConfigError(f"schedule.log_snr_min={self.log_snr_min:g} must be below schedule.mu={self.mu:g}")

    @property
    def cut(self) -> float:
        """1 - c, the probability of a log-SNR below log_snr_min."""
        return math.exp((self.log_snr_min - self.mu) / self.b) / 2

    def log_snr(self, t: Tensor) -> Tensor:
        u, rest = t * (1 - self.cut), (1 - t) + t * self.cut
        return self.mu + self.b * torch.where(u < rest, -(2 * u).log(), (2 * rest).log())

    def inverse(self, log_snr: Tensor) -> Tensor:
        tail = torch.exp(-(log_snr - self.mu).abs() / self.b) / 2
        return torch.where(log_snr > self.mu, tail, 1 - tail) / (1 - self.cut)


@register("schedule", "linear_log_snr")
@dataclass(frozen=True)
class LinearLogSNR(LogSNRSchedule):
    """log_snr = (1 - t) log_snr_max + t log_snr_min for t > 0, alpha^2 + sigma^2 = 1, and clean data at t = 0.

    Kingma et al. 2021, the linear schedule of their ablation, with the ends at which they initialise the learned one.
    Its bound is the integral over log_snr of half the squared error of eps, so that parameterization=epsilon with
    weighting=native trains the bound itself.
    """

    log_snr_max: float = 13.3
    log_snr_min: float = -5.0

    def __post_init__(self) -> None:
        if self.log_snr_min >= self.log_snr_max:
            raise ConfigError(
                f"schedule.log_snr_min={self.log_snr_min:g} must be below schedule.log_snr_max={self.log_snr_max:g}"
            )

    def log_snr(self, t: Tensor) -> Tensor:
        return torch.where(t > 0, torch.lerp(*self._ends(t), t), torch.inf)

    def inverse(self, log_snr: Tensor) -> Tensor:
        largest, smallest = self._ends(log_snr)
        return ((largest - log_snr) / (largest - smallest)).clamp(min=self.t_min)

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return like.new_tensor(self.log_snr_max), like.new_tensor(self.log_snr_min)


@register("schedule", "edm")
@dataclass(frozen=True)
class EDM(Schedule):
    """alpha = 1, sigma(t) = sigma_max t^power; the smallest noisy time is that of sigma_min.

    Karras et al. 2022, table 1: sigma(t) = t on [0, sigma_max] there, rescaled to [0, 1] here. power=0.5 is its column
    VE, sigma(t) = sqrt(t), the path of Brownian motion. The path is the same in sigma; its time matters to sampler=ode
    and sampler=path_time, to grids in t, and to a time sampler in t.
    """

    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    power: Positive = 1.0

    def __post_init__(self) -> None:
        if self.sigma_max <= self.sigma_min:
            raise ConfigError(
                f"schedule.sigma_max={self.sigma_max:g} must be above schedule.sigma_min={self.sigma_min:g}"
            )

    @property
    def t_min(self) -> float:
        return math.pow(self.sigma_min / self.sigma_max, 1 / self.power)

    def __call__(self, t: Tensor) -> NoiseLevel:
        t = torch.as_tensor(t, dtype=torch.float64)
        sigma = self.sigma_max * t**self.power
        return NoiseLevel(t, torch.ones_like(t), sigma, -2 * sigma.log())

    def time(self, log_snr: Tensor) -> Tensor:
        sigma = torch.exp(-torch.as_tensor(log_snr, dtype=torch.float64) / 2)
        return ((sigma / self.sigma_max) ** (1 / self.power)).clamp(max=1)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=torch.float64)
        return torch.zeros_like(t), 2 * self.power * self.sigma_max**2 * t ** (2 * self.power - 1)


@register("schedule", "flow")
@dataclass(frozen=True)
class Flow(LogSNRSchedule):
    """alpha = 1 - t, sigma = t + sigma_min (1 - t), with t' = shift t / (1 + (shift - 1) t) for t; alpha = 0 at t = 1.

    Lipman et al. 2023, equation 20, and for sigma_min = 0 Liu et al. 2023, equation 1, both in reversed time. At t = 0
    the data is clean, as on ve. The velocity dx_t / dt is parameterization=flow with the same sigma_min. shift is that
    of Esser et al. 2024 (SD3), equation 23.
    """

    sigma_min: OpenFraction = 0.0

    path: ClassVar[Callable[[Tensor], tuple[Tensor, Tensor]]] = staticmethod(linear_interpolant)

    def log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - t.log())

    def inverse(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)

    def __call__(self, t: Tensor) -> NoiseLevel:
        level = super().__call__(t)
        # sigma / alpha of sigma_min = 0 grows by sigma_min.
        growth = torch.log1p(self.sigma_min * torch.exp(level.log_snr / 2))
        noisy = level.t > 0
        sigma = level.sigma + self.sigma_min * torch.where(noisy, level.alpha, 0.0)
        return NoiseLevel(level.t, level.alpha, sigma, level.log_snr - 2 * torch.where(noisy, growth, 0.0))

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse; t_min for levels between clean data and sigma_min."""
        target = torch.as_tensor(log_snr, dtype=torch.float64)
        share = self.sigma_min * torch.exp(target / 2)
        t = torch.where(share < 1, super().time(target - 2 * torch.log1p(-share)), self.t_min)
        return torch.where(torch.isposinf(target), 0.0, t)
