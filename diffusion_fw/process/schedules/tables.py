"""Discrete schedules: tables of T noise levels, k = 1 .. T, by betas or by sigmas.

Variance preserving, with alpha_k^2 = prod_{j <= k} (1 - beta_j) and sigma_k^2 = 1 - alpha_k^2:

    linear         beta_k linear in k
    scaled_linear  sqrt(beta_k) linear in k
    warmup         beta_k linear in k over the first rows, then constant
    even_loss      alpha_k^2 = 1 - k / T
    cosine         beta_k = 1 - f(k / T) / f((k - 1) / T),  f(t) = cos^2(pi/2 (t + s) / (1 + s)),  at most max_beta
    sigmoid        the same with f(t) = S(end) - S(start + (end - start) t),  S(x) = sigmoid(x / tau)

Variance exploding, with alpha_k = 1:

    ncsn           sigma_k = sigma_min (sigma_max / sigma_min)^((k - 1) / (T - 1))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, ClassVar, Literal, cast

import torch
from torch import Tensor

from diffusion_fw.process.level import variance_exploding
from diffusion_fw.process.schedule import BetaSchedule, DiscreteSchedule, GeometricNoise, TableLength
from diffusion_fw.registry import (
    ConfigError,
    Fraction,
    NonNegative,
    OpenFraction,
    Positive,
    Range,
    Runtime,
    convert,
    register,
)


@register("schedule", "linear")
@dataclass(frozen=True)
class Linear(BetaSchedule):
    """beta_k rises linearly from beta_start to beta_end, both times 1000 / num_steps.

    Ho et al. 2020, section 4, for num_steps = 1000. The factor keeps the path the same for any number of steps, as in
    Nichol & Dhariwal 2021 (num_steps = 4000).
    """

    beta_start: Positive = 1e-4
    beta_end: Positive = 0.02

    def betas(self) -> Tensor:
        scale = 1000 / self.num_steps
        return torch.linspace(self.beta_start * scale, self.beta_end * scale, self.num_steps, dtype=torch.float64)


@register("schedule", "scaled_linear")
@dataclass(frozen=True)
class ScaledLinear(BetaSchedule):
    """sqrt(beta_k) rises linearly from sqrt(beta_start) to sqrt(beta_end), the betas times 1000 / num_steps.

    Rombach et al. 2022 (Stable Diffusion). Note that alpha_T^2 = 0.0047, so x_T is not pure noise.
    """

    beta_start: Positive = 0.00085
    beta_end: Positive = 0.012

    def betas(self) -> Tensor:
        ends = self.beta_start**0.5, self.beta_end**0.5
        return torch.linspace(*ends, self.num_steps, dtype=torch.float64).square() * (1000 / self.num_steps)


@register("schedule", "warmup")
@dataclass(frozen=True)
class Warmup(BetaSchedule):
    """beta_k rises linearly from beta_start to beta_end over the first rising T rows and stays; both times 1000 / T.

    The schedules that Ho et al. 2020 compare with linear betas, in their code: warmup10 (rising=0.1), warmup50
    (rising=0.5) and const (rising=0). Their fourth, quad, is schedule=scaled_linear with beta_start=1e-4 and
    beta_end=0.02.
    """

    beta_start: Positive = 1e-4
    beta_end: Positive = 0.02
    rising: Fraction = 0.1

    def betas(self) -> Tensor:
        count = int(self.num_steps * self.rising)
        betas = torch.full((self.num_steps,), self.beta_end, dtype=torch.float64)
        betas[:count] = torch.linspace(self.beta_start, self.beta_end, count, dtype=torch.float64)
        return betas * (1000 / self.num_steps)


@register("schedule", "even_loss")
@dataclass(frozen=True)
class EvenLoss(DiscreteSchedule):
    """alpha_k^2 = 1 - k / T, sigma_k^2 = k / T: every step loses the same part of the signal, 1 / T; alpha_T = 0.

    beta_k = 1 / (T - k + 1): Sohl-Dickstein et al. 2015, section 2.4.1, and jsd in the code of Ho et al. 2020.
    """

    def log_snrs(self) -> Tensor:
        row = torch.arange(1, self.num_steps + 1, dtype=torch.float64)
        return torch.log(self.num_steps - row) - torch.log(row)


@register("schedule", "cosine")
@dataclass(frozen=True)
class Cosine(BetaSchedule):
    """beta_k = min(1 - f(k / T) / f((k - 1) / T), max_beta) with f(t) = cos((t + s) / (1 + s) * pi / 2)^2.

    Nichol & Dhariwal 2021, equation 17. Where beta is clipped it differs from cosine_continuous.
    """

    s: NonNegative = 0.008
    max_beta: OpenFraction = 0.999

    def betas(self) -> Tensor:
        t = torch.arange(self.num_steps + 1, dtype=torch.float64) / self.num_steps
        f = torch.cos((t + self.s) / (1 + self.s) * (math.pi / 2)).square()
        return (1 - f[1:] / f[:-1]).clamp(max=self.max_beta)


@register("schedule", "sigmoid")
@dataclass(frozen=True)
class Sigmoid(BetaSchedule):
    """alpha_k^2 = (S(end) - S(x_k)) / (S(end) - S(start)), x_k = start + (end - start) k / T, S(x) = sigmoid(x / tau).

    Jabri et al. 2022, algorithm 1. beta_k is at most max_beta, as in cosine: alpha would be 0 at the last row.
    """

    start: float = -3.0
    end: float = 3.0
    tau: Positive = 1.0
    max_beta: OpenFraction = 0.999

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise ConfigError(f"schedule.end={self.end:g} must be above schedule.start={self.start:g}")

    def betas(self) -> Tensor:
        x = torch.linspace(self.start, self.end, self.num_steps + 1, dtype=torch.float64) / self.tau
        f = torch.sigmoid(x[-1]) - torch.sigmoid(x)
        return (1 - f[1:] / f[:-1]).clamp(max=self.max_beta)


@register("schedule", "ncsn")
@dataclass(frozen=True)
class NCSN(GeometricNoise, DiscreteSchedule):
    """alpha = 1, sigma_k = sigma_min (sigma_max / sigma_min)^((k - 1) / (L - 1)), k = 1 .. L = num_steps.

    The defaults are those of Song & Ermon 2020 (NCSNv2) for CIFAR-10: 232 levels from 50 to 0.01 for data in [0, 1],
    which are twice as large for data in [-1, 1], as images are here. Song & Ermon 2019, section 4.2, where k counts
    from the largest sigma, have L = 10 levels from 1 to 0.01, which are sigma_max=2 and sigma_min=0.02 here.

    sigma_max=auto is the largest distance between two training examples. num_steps=auto takes the number of levels from
    the number D of an example's values, so that neighbouring levels overlap (Song & Ermon 2020, technique 2): the ratio
    gamma of neighbouring sigmas has

        Phi(sqrt(2 D) (gamma - 1) + 3 gamma) - Phi(sqrt(2 D) (gamma - 1) - 3 gamma) = overlap,

    the probability that x at the higher of two levels lies within three deviations of the lower. The paper asks for
    about 0.5. Its published 232, 500, 788, 1086 and 2311 levels all have 0.5668, the default. Raises ConfigError for
    D < 5, where levels overlap whatever their ratio is.
    """

    num_steps: TableLength | Literal["auto"] = 232  # type: ignore[assignment]
    overlap: Annotated[float, Range(0, 0.95, low_open=True)] = 0.5668
    shape: Runtime[tuple[int, ...] | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_steps == "auto":
            # From here on it is a number, as in every table.
            object.__setattr__(self, "num_steps", self._overlapping())

    def _overlapping(self) -> int:
        """The number of levels of which two neighbours overlap by ``overlap``."""
        if self.shape is None:
            raise ConfigError(
                "schedule.num_steps=auto needs the shape of an example, but no data is given here; set it to a number"
            )
        size = math.prod(self.shape)
        root = math.sqrt(2 * size)
        if root <= 3:
            raise ConfigError(
                f"schedule.num_steps=auto needs examples of at least 5 values, but these have {size}; give a number"
            )
        # The first Phi is 1 to within 1e-5.
        gamma = (root + NormalDist().inv_cdf(1 - self.overlap)) / (root - 3)
        smallest, largest = self.log_sigmas
        count = 1 + max(1, round((largest - smallest) / math.log(gamma)))
        try:
            return cast(int, convert(TableLength, count))
        except ValueError:
            raise ConfigError(
                f"schedule.num_steps=auto would be {count:,} levels; lower schedule.overlap={self.overlap:g} or raise "
                f"schedule.sigma_min={self.sigma_min:g}, or set schedule.num_steps to a number"
            ) from None

    path: ClassVar[Callable[[Tensor], tuple[Tensor, Tensor]]] = staticmethod(variance_exploding)

    def log_snrs(self) -> Tensor:
        smallest, largest = self.log_sigmas
        return -2 * torch.linspace(largest, smallest, cast(int, self.num_steps), dtype=torch.float64).flip(0)
