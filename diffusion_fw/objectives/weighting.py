"""How much each noise level counts in the loss: a weight w(level) times a squared error.

Papers state the weight for the error of the output F, of eps or of x_0. Since x_0 = (b x_t - sigma F) / D and
eps = (alpha F - a x_t) / D with D = alpha b - sigma a, they are one weight of F:

    w_F = w_x0 (sigma / D)^2 = w_eps (alpha / D)^2,    so that    w_x0 = snr w_eps,    snr = (alpha / sigma)^2.

    native        w_F = 1
    snr           w_eps = 1, that is w_x0 = snr
    min_snr       w_x0 = min(snr, gamma)
    soft_min_snr  w_x0 = gamma snr / (snr + gamma)
    p2            w_eps = 1 / (k + snr)^gamma
    edm           w_x0 = snr + 1 / sigma_data^2
    sigmoid       w_eps = sigmoid(bias - log snr)
    elbo          w_x0 = -1/2 d snr / dt
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Parameterization, SigmaData
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import NonNegative, Positive, Runtime, register


class Weighting(ABC):
    """A weight of the squared error in one of the spaces F, eps and x_0."""

    space: ClassVar[Literal["native", "eps", "x0"]]
    """Which squared error the weight multiplies: that of the network's output F, of eps or of x_0."""

    @abstractmethod
    def __call__(self, level: NoiseLevel) -> Tensor:
        """The weight at each level, float64, of the shape of level.t."""


def output_weight(weighting: Weighting, parameterization: Parameterization, level: NoiseLevel) -> Tensor:
    """The weight of the error of F: w_F = w_x0 (sigma / D)^2 = w_eps (alpha / D)^2, float64."""
    weight = weighting(level)
    if weighting.space == "native":
        return weight
    numerator = level.sigma if weighting.space == "x0" else level.alpha
    return weight * (numerator / parameterization.determinant(level)).square()


def eps_weight(weighting: Weighting, parameterization: Parameterization, level: NoiseLevel) -> Tensor:
    """The weight of the error of eps: w_eps = w_x0 / snr = w_F (D / alpha)^2, float64."""
    weight = weighting(level)
    if weighting.space == "eps":
        return weight
    if weighting.space == "x0":
        return weight * torch.exp(-level.log_snr)
    return weight * (parameterization.determinant(level) / level.alpha).square()


@register("weighting", "native")
@dataclass(frozen=True)
class Native(Weighting):
    """w_F = 1: with epsilon this is DDPM's L_simple (Ho et al. 2020, equation 14)."""

    space: ClassVar[Literal["native", "eps", "x0"]] = "native"

    def __call__(self, level: NoiseLevel) -> Tensor:
        return torch.ones_like(level.t)


@register("weighting", "snr")
@dataclass(frozen=True)
class SNR(Weighting):
    """w_x0 = snr, which is w_eps = 1: L_simple for every parameterization. Salimans & Ho 2022, section 4.

    On a score network it is lambda = sigma^2 (Song & Ermon 2019, equation 6).
    """

    space: ClassVar[Literal["native", "eps", "x0"]] = "eps"

    def __call__(self, level: NoiseLevel) -> Tensor:
        return torch.ones_like(level.t)


@register("weighting", "min_snr")
@dataclass(frozen=True)
class MinSNR(Weighting):
    """w_x0 = min(snr, gamma), whatever the network predicts. Hang et al. 2023."""

    gamma: Positive = 5.0

    space: ClassVar[Literal["native", "eps", "x0"]] = "x0"

    def __call__(self, level: NoiseLevel) -> Tensor:
        return level.log_snr.exp().clamp(max=self.gamma)


@register("weighting", "soft_min_snr")
@dataclass(frozen=True)
class SoftMinSNR(Weighting):
    """w_x0 = gamma snr / (snr + gamma): min_snr without its corner.

    Crowson et al. 2024 (Hourglass Diffusion Transformers). For gamma = 1 / sigma_data^2 it is 1 / (s^2 + sigma_data^2)
    with s = sigma / alpha.
    """

    gamma: Positive = 4.0

    space: ClassVar[Literal["native", "eps", "x0"]] = "x0"

    def __call__(self, level: NoiseLevel) -> Tensor:
        return 1 / (torch.exp(-level.log_snr) + 1 / self.gamma)


@register("weighting", "p2")
@dataclass(frozen=True)
class P2(Weighting):
    """w_eps = 1 / (k + snr)^gamma. Choi et al. 2022, equation 8."""

    k: Positive = 1.0
    gamma: NonNegative = 1.0

    space: ClassVar[Literal["native", "eps", "x0"]] = "eps"

    def __call__(self, level: NoiseLevel) -> Tensor:
        return (self.k + level.log_snr.exp()) ** -self.gamma


@register("weighting", "edm")
@dataclass(frozen=True)
class EDM(SigmaData, Weighting):
    """w_x0 = (s^2 + sigma_data^2) / (s sigma_data)^2 = snr + 1 / sigma_data^2 with s = sigma / alpha.

    Karras et al. 2022, table 1: with parameterization=edm of the same sigma_data it is w_F = 1.
    """

    space: ClassVar[Literal["native", "eps", "x0"]] = "x0"

    def __call__(self, level: NoiseLevel) -> Tensor:
        return level.log_snr.exp() + 1 / self.data_deviation**2


@register("weighting", "sigmoid")
@dataclass(frozen=True)
class Sigmoid(Weighting):
    """w_eps = sigmoid(bias - log_snr). Kingma & Gao 2023 (bias 2); Hoogeboom et al. 2024 (SiD2).

    Their loss is an integral over log_snr, which for uniform t multiplies this weight by -d log_snr / dt. Here schedule
    and time_sampler alone determine the density of log_snr in training.
    """

    bias: float = 2.0

    space: ClassVar[Literal["native", "eps", "x0"]] = "eps"

    def __call__(self, level: NoiseLevel) -> Tensor:
        return torch.sigmoid(self.bias - level.log_snr)


@register("weighting", "elbo")
@dataclass(frozen=True)
class ELBO(Weighting):
    """w_x0 = -1/2 d snr / dt, w_eps = -1/2 d log_snr / dt: the bound in nats per dimension for uniform t.

    Kingma et al. 2021, equations 16 and 17; on a table T / 2 (snr_{k-1} - snr_k), equation 13.
    """

    schedule: Runtime[Schedule]

    space: ClassVar[Literal["native", "eps", "x0"]] = "x0"

    def __call__(self, level: NoiseLevel) -> Tensor:
        return self.schedule.elbo_weight(level.t)
