"""Mixtures of isotropic Gaussians on examples of any shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffusion_fw.noise import generator as named_generator
from diffusion_fw.process.level import NoiseLevel, require_level
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, as_component

MOST_LEVELS = 1024
"""How many levels a mixture remembers."""
SMALLEST_VARIANCE = 1e-280
"""Replaces a variance of 0: exponents stay finite, and the nearest point gets all the weight."""


class GaussianMixture:
    """p(x_0) = sum_k w_k N(x_0; m_k, s_k^2 I): means (K, *shape), stds (K,) >= 0, weights (K,) of sum 1.

    At a level (alpha, sigma) it is a mixture too, with means alpha m_k and variances alpha^2 s_k^2 + sigma^2. Raises
    ConfigError for negative stds or weights, and for weights of another number or sum.
    """

    def __init__(self, means: Tensor, stds: Tensor, weights: Tensor | None = None) -> None:
        count = len(means)
        self.means = torch.as_tensor(means, dtype=torch.float64)
        self.stds = torch.as_tensor(stds, dtype=torch.float64).expand(count)
        uniform = torch.full((count,), 1 / count, dtype=torch.float64)
        self.weights = uniform if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        if (
            self.weights.shape != (count,)
            or abs(float(self.weights.sum()) - 1) > 1e-6
            or bool((self.weights < 0).any())
        ):
            raise ConfigError(f"weights must be {count} numbers >= 0 of sum 1, but are {self.weights.tolist()}")
        if bool((self.stds < 0).any()):
            raise ConfigError(f"stds must be >= 0, but are {self.stds.tolist()}")
        self._known: dict[tuple[float, float, torch.device, torch.dtype], Scales] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.means.shape[1:])

    @property
    def dimensions(self) -> int:
        return math.prod(self.shape)

    @property
    def mean(self) -> Tensor:
        """E[x_0], of one example's shape."""
        result: Tensor = torch.tensordot(self.weights, self.means, dims=1)
        return result

    @property
    def covariance(self) -> Tensor:
        """Cov[x_0] (D, D) of the flattened example."""
        offset = (self.means - self.mean).flatten(1)
        between = torch.einsum("k,ki,kj->ij", self.weights, offset, offset)
        return between + (self.weights * self.stds.square()).sum() * torch.eye(self.dimensions, dtype=torch.float64)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """(n, *shape) float64 draws."""
        return self.sample_with_labels(n, generator)[0]

    def sample_with_labels(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(n, *shape) float64 draws and the component (n,) of each."""
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn((n, *self.shape), dtype=torch.float64, generator=generator)
        return self.means[chosen] + self.stds[chosen].view(-1, *(1,) * len(self.shape)) * noise, chosen

    def marginal(self, level: NoiseLevel) -> GaussianMixture:
        """The distribution of x_t = alpha x_0 + sigma eps at one level."""
        stds = torch.hypot(level.alpha * self.stds, level.sigma)
        return GaussianMixture(level.alpha * self.means, stds, self.weights)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) (B,) in nats of x (B, *shape), float64."""
        squared = (x.double().unsqueeze(1) - self.means).square().flatten(2).sum(2)
        variance = self.stds.square()
        terms = self.weights.log() - squared / (2 * variance) - self.dimensions / 2 * (2 * math.pi * variance).log()
        return torch.logsumexp(terms, dim=1)

    def score(self, x: Tensor) -> Tensor:
        """grad log p(x) = -sum_k p(k | x) (x - m_k) / s_k^2, of the shape of x (B, *shape), float64."""
        offset = x.double().unsqueeze(1) - self.means
        variance = self.stds.square()
        terms = self.weights.log() - self.dimensions / 2 * variance.log()
        share = (terms - offset.square().flatten(2).sum(2) / (2 * variance)).softmax(dim=1)
        return -torch.einsum("bk,bk...->b...", share / variance, offset)

    def scales(self, alpha: float, sigma: float, device: torch.device, dtype: torch.dtype) -> Scales:
        """What the posterior at one level needs. It is kept, since samplers visit a level again and again."""
        key = (alpha, sigma, device, dtype)
        if key not in self._known:
            if len(self._known) >= MOST_LEVELS:
                self._known.clear()
            # Usable later in calls that are differentiated.
            with torch.inference_mode(False), torch.no_grad():
                values = torch.tensor([[alpha], [sigma]], dtype=torch.float64, device=device)
                self._known[key] = _scales(self, values[0], values[1], dtype)
        return self._known[key]

    def denoiser(self, schedule: Schedule | str) -> MixtureDenoiser:
        """The exact denoiser of this distribution on a schedule, or on the registered one of this name."""
        return MixtureDenoiser(self, as_component("schedule", schedule))

    def irreducible(self, level: NoiseLevel, count: int = 4096, seed: int = 0) -> Tensor:
        """E |x_0 - E[x_0 | x_t]|^2 / D, the least possible error of x_0, at each level; float64.

        Exact for one component: s^2 sigma^2 / (alpha^2 s^2 + sigma^2). Otherwise the mean of the exact posterior
        variance over ``count`` draws of x_t. The least error of eps is (alpha / sigma)^2 times as large.
        """
        return torch.stack([self._irreducible(item, count, seed) for item in _each(level)]).reshape(level.t.shape)

    def _irreducible(self, level: NoiseLevel, count: int, seed: int) -> Tensor:
        noised = (level.alpha * self.stds).square() + level.sigma.square()
        variance = (self.stds * level.sigma).square() / noised.clamp(min=SMALLEST_VARIANCE)
        if len(self.means) == 1:
            return variance[0]
        source = named_generator(seed)
        x = self.marginal(level).sample(count, source)
        weight, x0, _ = MixtureDenoiser.posterior(self, x, level)
        mean = torch.einsum("bk,bk...->b...", weight, x0).unsqueeze(1)
        spread = (x0 - mean).square().flatten(2).mean(2)
        return (weight * (variance + spread)).sum(1).mean()


def _each(level: NoiseLevel) -> list[NoiseLevel]:
    return level.map(lambda value: value.reshape(-1)).unbind()


class Scales(NamedTuple):
    """What a mixture's posterior needs to know of noise levels, of shape (levels, K) or (levels, 1)."""

    prior: Tensor
    """log w_k - D / 2 log var_k, with var_k = alpha^2 s_k^2 + sigma^2; float64."""
    precision: Tensor
    """1 / (2 var_k); float64."""
    of_offset: tuple[Tensor, Tensor, Tensor]
    """alpha, and the factors of x_t - alpha m_k in the means of x_0 and eps; in the precision of x."""


def _scales(mixture: GaussianMixture, alpha: Tensor, sigma: Tensor, dtype: torch.dtype) -> Scales:
    alpha, sigma = alpha.reshape(-1, 1), sigma.reshape(-1, 1)
    stds = mixture.stds.to(alpha.device)
    variance = ((alpha * stds).square() + sigma.square()).clamp(min=SMALLEST_VARIANCE)
    prior = mixture.weights.to(alpha.device).log() - mixture.dimensions / 2 * variance.log()
    of_offset = (alpha.to(dtype), (alpha * stds.square() / variance).to(dtype), (sigma / variance).to(dtype))
    return Scales(prior, 0.5 / variance, of_offset)


@dataclass(frozen=True)
class MixtureDenoiser:
    """E[x_0 | x_t] and E[eps | x_t] of a mixture, in the precision of x; exact at both ends of the path.

    cond (B,) is the component of x_0, K if it is unknown; without cond all are unknown.
    """

    mixture: GaussianMixture
    schedule: Schedule

    @staticmethod
    def posterior(
        mixture: GaussianMixture, x: Tensor, level: NoiseLevel, cond: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """For each component, its probability given x_t (B, K) and its means of x_0 and eps (B, K, *shape)."""
        require_level(level, mixture)
        if level.t.ndim == 0:
            scales = mixture.scales(float(level.alpha), float(level.sigma), x.device, x.dtype)
        else:
            scales = _scales(mixture, level.alpha.to(x.device), level.sigma.to(x.device), x.dtype)
        tail = (1,) * (x.ndim - 1)
        alpha, to_x0, to_eps = (value.reshape(*value.shape, *tail) for value in scales.of_offset)
        means = mixture.means.to(x)
        offset = x.unsqueeze(1) - alpha * means
        logits = scales.prior - offset.square().flatten(2).sum(2).double() * scales.precision
        if cond is not None:
            kept = torch.arange(len(means), device=x.device) == cond[:, None]
            logits = logits.masked_fill(~(kept | (cond == len(means))[:, None]), -torch.inf)
        return logits.softmax(dim=1).to(x.dtype), torch.addcmul(means, to_x0, offset), to_eps * offset

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        weight, x0, eps = self.posterior(self.mixture, x, level, cond)
        weight = weight.reshape(*weight.shape, *(1,) * (x.ndim - 1))
        return Prediction((weight * x0).sum(1), (weight * eps).sum(1))
