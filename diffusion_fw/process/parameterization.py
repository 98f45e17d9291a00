"""What the network regresses: F = a x_0 + b eps, for a pair (a, b) that may depend on the noise level.

Together with the path x_t = alpha x_0 + sigma eps, F determines x_0 and eps. With D = alpha b - sigma a,

    x_0 = (b x_t - sigma F) / D,    eps = (alpha F - a x_t) / D;

where D = 0 the output says nothing about one of them. A parameterization is its pair (a, b), the scale c_in of the
network's input c_in x_t, and the time label:

    name     a                       b                      D                  c_in   label
    epsilon  0                       1                      alpha              1      1000 t - 1
    x0       1                       0                      -sigma             1      1000 t - 1
    v        -sigma                  alpha                  alpha^2 + sigma^2  1      1000 t - 1
    flow     -1                      1                      alpha + sigma      1      1000 t
    score    0                       -1 / sigma             -alpha / sigma     1      100 log(sigma / alpha)
    edm      sigma / (sigma_data n)  -alpha sigma_data / n  -n / sigma_data    1 / n  log(sigma / alpha) / 4

with n = sqrt(sigma^2 + alpha^2 sigma_data^2), the standard deviation of x_t; for posterior_mean, see there. The label
is

    label = label_scale u + label_shift,    u = t (label_of=time) or log(sigma / alpha) (label_of=log_sigma),

whose three values are parameters of each, so that a published network gets the label that it was trained with.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel, combine, expand
from diffusion_fw.process.schedule import DiscreteSchedule, Schedule
from diffusion_fw.process.transition import posterior
from diffusion_fw.registry import AutoStd, ConfigError, OpenFraction, Positive, Runtime, Size, register

SMALLEST_SINE = 1e-8


@dataclass(frozen=True)
class Prediction:
    """x_0 and eps predicted from x_t = alpha x0 + sigma eps, and the raw variance if it is learned; all like x_t."""

    x0: Tensor
    eps: Tensor
    variance_logit: Tensor | None = None


def with_x0(prediction: Prediction, level: NoiseLevel, x0: Tensor) -> Prediction:
    """The prediction moved to another x_0 at the same x_t: eps' = eps - (alpha / sigma)(x_0' - x_0).

    So x_t = alpha x_0' + sigma eps' holds. Where x_0 is unchanged, so is eps, to the bit. At sigma = 0 any eps fits.
    """
    ratio = torch.exp(level.log_snr / 2).nan_to_num(posinf=0.0)
    eps = prediction.eps - expand(ratio, x0) * (x0 - prediction.x0)
    return dataclasses.replace(prediction, x0=x0, eps=eps)


class Parameterization(ABC):
    """F = a x_0 + b eps; with D = alpha b - sigma a, x_0 = (b x_t - sigma F) / D and eps = (alpha F - a x_t) / D."""

    @abstractmethod
    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(a, b), float64, of the shape of level.t; the only method that a parameterization must define."""

    def input(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(c_in, label), float64, of the shape of level.t: by default 1 and 1000 t - 1.

        The network gets c_in x_t. The label is DDPM's index for num_steps = 1000; other numbers of steps are mapped to
        the same range.
        """
        return torch.ones_like(level.t), 1000 * level.t - 1

    def determinant(self, level: NoiseLevel) -> Tensor:
        """D = alpha b - sigma a: where it is 0, F does not determine x_0 and eps."""
        a, b = self.coefficients(level)
        return level.alpha * b - level.sigma * a

    def solvable(self, level: NoiseLevel) -> Tensor:
        """Whether x_t and F determine x_0 and eps at each level (bool), to the precision of float32.

        D divided by the lengths of (alpha, sigma) and (a, b) is the sine of the angle between the two. Below 1e-8 the
        solution is float32 noise.
        """
        a, b = self.coefficients(level)
        sine = self.determinant(level).abs() / (torch.hypot(a, b) * torch.hypot(level.alpha, level.sigma))
        return sine > SMALLEST_SINE

    def amplification(self, level: NoiseLevel) -> Tensor:
        """sigma |(a, b)| / |D|: the error of x_0 for an error of F relative to the size of F; float64, like level.t."""
        return level.sigma * torch.hypot(*self.coefficients(level)) / self.determinant(level).abs()

    def target(self, level: NoiseLevel, x0: Tensor, eps: Tensor) -> Tensor:
        """F = a x_0 + b eps."""
        a, b = self.coefficients(level)
        return expand(a, x0) * x0 + expand(b, x0) * eps

    def inverse(self, level: NoiseLevel) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(p, q, r, s) with x_0 = p x_t + q F and eps = r x_t + s F: (b, -sigma, -a, alpha) / D."""
        a, b = self.coefficients(level)
        scale = 1 / self.determinant(level)
        return b * scale, -level.sigma * scale, -a * scale, level.alpha * scale

    def solve(self, level: NoiseLevel, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0, eps) from x_t and the network's F, each of the shape of x."""
        p, q, r, s = (expand(value, x) for value in self.inverse(level))
        return combine(p, x, q, output), combine(r, x, s, output)


@dataclass(frozen=True)
class Labelled(Parameterization):
    """A parameterization whose time label is label_scale u + label_shift, with u the time t or log(sigma / alpha).

    The defaults are DDPM's index 0 .. 999. Others: 999 t of the continuous VP models of Song et al. 2021; k - 1 in
    0 .. 3999 of a table of 4000 rows (label_scale=4000); log sigma of NCSN++ (label_of=log_sigma label_scale=1
    label_shift=0).
    """

    label_of: Literal["time", "log_sigma"] = field(default="time", kw_only=True)
    label_scale: float = field(default=1000.0, kw_only=True)
    label_shift: float = field(default=-1.0, kw_only=True)

    def label(self, level: NoiseLevel) -> Tensor:
        """The time label, float64, of the shape of level.t."""
        # Clean data and pure noise have no finite log(sigma / alpha).
        of = level.t if self.label_of == "time" else -level.log_snr.clamp(-40, 40) / 2
        return self.label_scale * of + self.label_shift

    def input(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return torch.ones_like(level.t), self.label(level)


@register("parameterization", "epsilon")
@dataclass(frozen=True)
class Epsilon(Labelled):
    """F = eps: (a, b) = (0, 1). Ho et al. 2020, equation 14."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(level.t), torch.ones_like(level.t)


@register("parameterization", "x0")
@dataclass(frozen=True)
class X0(Labelled):
    """F = x_0: (a, b) = (1, 0). Ho et al. 2020, section 3.2; Salimans & Ho 2022."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return torch.ones_like(level.t), torch.zeros_like(level.t)


@register("parameterization", "posterior_mean")
@dataclass(frozen=True)
class PosteriorMean(Labelled):
    """F = E[x_s | x_t, x_0] = c_x0 x_0 + c_xt x_t: (a, b) = (c_x0 + c_xt alpha, c_xt sigma), D = -c_x0 sigma.

    The mean of DDPM's reverse step, mu-tilde: Ho et al. 2020, equation 7 and table 2. s is the level before t: the row
    before it in a table, whatever steps a sampler takes, and t - 1 / ``steps`` on a continuous schedule, or clean data
    below that. At the first of them F = x_0. weighting=native is the table's unweighted error, and weighting=elbo that
    of the bound, equation 8. c_x0 is small, so that the network's errors count 1 / c_x0 times in x_0.
    """

    schedule: Runtime[Schedule]
    steps: Size = 1000

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        c_x0, c_xt = self.step(level)
        return c_x0 + c_xt * level.alpha, c_xt * level.sigma

    def determinant(self, level: NoiseLevel) -> Tensor:
        # alpha b - sigma a would cancel.
        return -self.step(level)[0] * level.sigma

    def step(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """c_x0 and c_xt of the step to the level before; 1 and 0 if that is clean data."""
        rows = self.schedule.num_steps if isinstance(self.schedule, DiscreteSchedule) else self.steps
        before = self.schedule.snap(level.t) - 1 / rows
        clean = before <= 0
        step = posterior(level, self.schedule(torch.where(clean, 1.0, before)))
        return torch.where(clean, 1.0, step.c_x0), torch.where(clean, 0.0, step.c_xt)


@register("parameterization", "v")
@dataclass(frozen=True)
class V(Labelled):
    """F = alpha eps - sigma x_0: (a, b) = (-sigma, alpha). Salimans & Ho 2022, appendix D."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return -level.sigma, level.alpha


@register("parameterization", "flow")
@dataclass(frozen=True)
class Flow(Labelled):
    """F = (1 - sigma_min) eps - x_0 = dx_t / dt on schedule=flow of the same sigma_min: (a, b) = (-1, 1 - sigma_min).

    Lipman et al. 2023, equation 23; with sigma_min = 0 Liu et al. 2023, equation 1. On that schedule D = 1, and
    training refuses another sigma_min than schedule.sigma_min. The label is 1000 t, as in Esser et al. 2024 (SD3).
    """

    sigma_min: OpenFraction = 0.0
    label_shift: float = field(default=0.0, kw_only=True)

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(level.t), torch.full_like(level.t, 1 - self.sigma_min)


@register("parameterization", "score")
@dataclass(frozen=True)
class Score(Labelled):
    """F = grad log q(x_t | x_0) = -eps / sigma: (a, b) = (0, -1 / sigma). Song & Ermon 2019, equation 5.

    weighting=snr is the paper's lambda = sigma^2. The target grows as 1 / sigma; with scale_by_sigma the network's
    output is divided by sigma to become the score, so that F = -eps, (a, b) = (0, -1) and D = -alpha (Song & Ermon
    2020, technique 3; NCSN++ in Song et al. 2021).

    The label is 100 log(sigma / alpha), so that the highest frequency of a sinusoidal embedding is typical of NCSN++'s
    Fourier features of log sigma, 2 pi 16 (Song et al. 2021, appendix H). x_t is not scaled, and as large as sigma_max,
    as in these papers, whose networks normalize it in their first layers (Karras et al. 2022, table 1, column VE:
    c_in = 1). For a network that does not, such as an MLP, scale_input sets c_in = 1 / sqrt(alpha^2 + sigma^2).
    """

    scale_by_sigma: bool = False
    scale_input: bool = False
    label_of: Literal["time", "log_sigma"] = field(default="log_sigma", kw_only=True)
    label_scale: float = field(default=100.0, kw_only=True)
    label_shift: float = field(default=0.0, kw_only=True)

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        b = -torch.ones_like(level.t) if self.scale_by_sigma else -1 / level.sigma
        return torch.zeros_like(level.t), b

    def input(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        c_in = 1 / torch.hypot(level.alpha, level.sigma) if self.scale_input else torch.ones_like(level.t)
        return c_in, self.label(level)


@dataclass(frozen=True)
class SigmaData:
    """The standard deviation of the data over all examples and dimensions; sigma_data=auto measures it.

    Karras et al. 2022, table 1: 0.5 for images in [-1, 1].
    """

    sigma_data: Positive | AutoStd = 0.5
    data_std: Runtime[float | None] = None

    def __post_init__(self) -> None:
        if self.sigma_data == "auto" and self.data_std is None:
            raise ConfigError(
                "sigma_data=auto needs the standard deviation of the training data, but no data is given here; "
                "set sigma_data to a number"
            )

    @property
    def data_deviation(self) -> float:
        """sigma_data as a number."""
        deviation = self.data_std if self.sigma_data == "auto" else self.sigma_data
        assert deviation is not None
        return deviation


@register("parameterization", "edm")
@dataclass(frozen=True)
class EDM(SigmaData, Labelled):
    """F = (x_0 - c_skip x_t / alpha) / c_out, input c_in x_t / alpha, label log(s) / 4, at s = sigma / alpha.

    Karras et al. 2022, table 1 and equation 7, there for alpha = 1:
    c_skip = sigma_data^2 / (s^2 + sigma_data^2), c_out = s sigma_data / sqrt(s^2 + sigma_data^2),
    c_in = 1 / sqrt(s^2 + sigma_data^2). With n = sqrt(sigma^2 + alpha^2 sigma_data^2), the deviation of x_t, this is
    (a, b) = (sigma / (sigma_data n), -alpha sigma_data / n), D = -n / sigma_data and c_in = 1 / n. D is 0 at no level
    of any path. On a variance-preserving path with sigma_data = 1 it is -v.
    """

    label_of: Literal["time", "log_sigma"] = field(default="log_sigma", kw_only=True)
    label_scale: float = field(default=0.25, kw_only=True)
    label_shift: float = field(default=0.0, kw_only=True)

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        deviation = self.deviation(level)
        a = level.sigma / (self.data_deviation * deviation)
        b = -level.alpha * self.data_deviation / deviation
        return a, b

    def input(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return 1 / self.deviation(level), self.label(level)

    def deviation(self, level: NoiseLevel) -> Tensor:
        """n, the standard deviation of x_t for data of standard deviation sigma_data."""
        return torch.hypot(level.sigma, level.alpha * self.data_deviation)
