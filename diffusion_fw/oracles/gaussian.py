"""Gaussian data, whose probability flow has a closed form too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.oracles.mixture import SMALLEST_VARIANCE, GaussianMixture
from diffusion_fw.process.level import NoiseLevel, per_example, require_level
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, as_component


class Gaussian(GaussianMixture):
    """N(mean, std^2 I), mean of any shape."""

    def __init__(self, mean: Tensor, std: float) -> None:
        super().__init__(torch.as_tensor(mean, dtype=torch.float64).unsqueeze(0), torch.tensor([std]))

    def flow(self, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel) -> Tensor:
        """x_s on the flow through x_t: alpha_s m + (x_t - alpha_t m) sqrt((alpha_s^2 s^2 + sigma_s^2) / (... at t))."""
        ratio = self.marginal(level_s).stds[0] / self.marginal(level_t).stds[0]
        mean = self.mean.to(x)
        return level_s.alpha * mean + ratio * (x - level_t.alpha * mean)


class CorrelatedGaussian:
    """N(m, C): mean of any shape, covariance C (D, D) of the flattened example, diagonal or full.

    C = Q diag(lambda) Q^T: in the basis Q the coordinates are independent, with variance alpha^2 lambda_i + sigma^2 at
    a level. Raises ConfigError if C has another shape or is not symmetric and positive semidefinite.
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.mean = torch.as_tensor(mean, dtype=torch.float64)
        self.covariance = torch.as_tensor(covariance, dtype=torch.float64)
        if self.covariance.shape != (self.dimensions, self.dimensions):
            raise ConfigError(
                f"covariance must be {self.dimensions} x {self.dimensions}, for the {self.dimensions} numbers of an "
                f"example, but has the shape {tuple(self.covariance.shape)}"
            )
        rounding = 1e-10 * float(self.covariance.abs().max())
        if bool(((self.covariance - self.covariance.T).abs() > rounding).any()):
            raise ConfigError("covariance must be symmetric")
        variances, self.basis = torch.linalg.eigh(self.covariance)
        if float(variances[0]) < -rounding:
            raise ConfigError(f"covariance must have no negative eigenvalue, but the least is {float(variances[0]):g}")
        self.variances = variances.clamp(min=0)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.mean.shape)

    @property
    def dimensions(self) -> int:
        return self.mean.numel()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """(n, *shape) float64 draws."""
        noise = torch.randn((n, *self.shape), dtype=torch.float64, generator=generator)
        return self.mean + self.scale(self.variances.sqrt(), noise)

    def marginal(self, level: NoiseLevel) -> CorrelatedGaussian:
        """The distribution of x_t = alpha x_0 + sigma eps at one level."""
        noise = level.sigma.square() * torch.eye(self.dimensions, dtype=torch.float64)
        return CorrelatedGaussian(level.alpha * self.mean, level.alpha.square() * self.covariance + noise)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) (B,) in nats of x (B, *shape), float64; the covariance must be invertible."""
        squared = ((x.double() - self.mean).flatten(1) @ self.basis).square() / self.variances
        result: Tensor = -(squared + (2 * math.pi * self.variances).log()).sum(1) / 2
        return result

    def score(self, x: Tensor) -> Tensor:
        """grad log p(x) = -C^-1 (x - m), of the shape of x (B, *shape), float64."""
        return self.scale(-1 / self.variances, x.double() - self.mean)

    def scale(self, gains: Tensor, x: Tensor) -> Tensor:
        """Q diag(gains) Q^T x for gains (D,), or (B, D) of each example, in the precision of x (B, *shape)."""
        basis = self.basis.to(x)
        result: Tensor = ((x.flatten(1) @ basis * gains.to(x)) @ basis.T).view_as(x)
        return result

    def denoiser(self, schedule: Schedule | str) -> CorrelatedDenoiser:
        """The exact denoiser of this distribution on a schedule, or on the registered one of this name."""
        return CorrelatedDenoiser(self, as_component("schedule", schedule))

    def irreducible(self, level: NoiseLevel) -> Tensor:
        """E |x_0 - E[x_0 | x_t]|^2 / D = mean_i lambda_i sigma^2 / (alpha^2 lambda_i + sigma^2) at each level."""
        result: Tensor = (self.variances * level.sigma[..., None].square() / self.noised(level)).mean(-1)
        return result

    def flow(self, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel) -> Tensor:
        """x_s on the flow through x_t: that of ``Gaussian`` for each coordinate in the basis Q."""
        mean, ratio = self.mean.to(x), (self.noised(level_s) / self.noised(level_t)).sqrt()
        return level_s.alpha * mean + self.scale(ratio, x - level_t.alpha * mean)

    def noised(self, level: NoiseLevel) -> Tensor:
        """alpha^2 lambda_i + sigma^2 (..., D) at each level."""
        own = self.variances.to(level.alpha)
        variances = level.alpha[..., None].square() * own + level.sigma[..., None].square()
        result: Tensor = variances.clamp(min=SMALLEST_VARIANCE)
        return result


@dataclass(frozen=True)
class CorrelatedDenoiser:
    """E[x_0 | x_t] = m + alpha C V^-1 (x_t - alpha m) and E[eps | x_t] = sigma V^-1 (x_t - alpha m).

    V = alpha^2 C + sigma^2 I; in the precision of x, exact at both ends of the path.
    """

    gaussian: CorrelatedGaussian
    schedule: Schedule

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        require_level(level, self)
        level = level.map(lambda value: value.reshape(-1) if value.ndim else value)
        variances, mean = self.gaussian.noised(level), self.gaussian.mean.to(x)
        offset = x - per_example(level.alpha.to(x), x) * mean
        gain = level.alpha[..., None] * self.gaussian.variances.to(variances) / variances
        x0 = mean + self.gaussian.scale(gain, offset)
        return Prediction(x0, self.gaussian.scale(level.sigma[..., None] / variances, offset))
