"""Closed-form denoisers of labelled data that record their evaluations."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.process.schedules.continuous import VP

MEANS = torch.tensor([[0.9, 0.2, -0.4, 0.1], [-0.5, 0.8, 0.3, -0.7], [-0.6, -0.9, 0.5, 0.6]], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.5, 0.4], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def column(value: Tensor, x: Tensor) -> Tensor:
    return value.to(x).reshape(-1, 1)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Isotropic Gaussians; cond is the component, or the number of components for "any of them"."""

    schedule: Schedule = field(default_factory=VP)
    means: Tensor = MEANS
    stds: Tensor = STDS
    weights: Tensor = WEIGHTS
    learned_variance: bool = False
    batches: list[int] = field(default_factory=list)

    def log_joint(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """log weight_k + log N(x; alpha mean_k, alpha^2 std_k^2 + sigma^2), (B, K)."""
        alpha, sigma = column(level.alpha, x), column(level.sigma, x)
        variance = alpha**2 * self.stds.to(x) ** 2 + sigma**2
        distance = (x[:, None] - alpha[..., None] * self.means.to(x)).square().sum(-1)
        normalization = x.shape[1] / 2 * (2 * torch.pi * variance).log()
        return self.weights.to(x).log() - distance / (2 * variance) - normalization

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None) -> Prediction:
        self.batches.append(len(x))
        alpha, sigma = column(level.alpha, x), column(level.sigma, x)
        means, stds = self.means.to(x), self.stds.to(x)
        share = self.log_joint(x, level).softmax(1)
        if cond is not None:
            chosen = torch.nn.functional.one_hot(cond, len(means) + 1)[:, :-1].to(x)
            share = torch.where(cond[:, None] == len(means), share, chosen)
        variance = alpha**2 * stds**2 + sigma**2
        offset = x[:, None] - alpha[..., None] * means
        x0 = (share[..., None] * (means + (alpha * stds**2 / variance)[..., None] * offset)).sum(1)
        eps = (share[..., None] * (sigma / variance)[..., None] * offset).sum(1)
        return Prediction(x0, eps, (share @ self.means.to(x)).sin() if self.learned_variance else None)


@dataclass(frozen=True, eq=False)
class Labelled:
    """One Gaussian N(means[cond], std^2) a label, the last for "no label"."""

    means: Tensor
    std: float = 0.5
    schedule: Schedule = field(default_factory=VP)

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None) -> Prediction:
        alpha, sigma = column(level.alpha, x), column(level.sigma, x)
        mean = self.means[-1] if cond is None else self.means[cond]
        variance = alpha**2 * self.std**2 + sigma**2
        offset = x - alpha * mean
        return Prediction(mean + alpha * self.std**2 / variance * offset, sigma / variance * offset)


def draw(count: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels(count: int = 6) -> Tensor:
    return torch.arange(count) % len(MEANS)


def times(*values: float) -> Tensor:
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


def residual(x: Tensor, level: NoiseLevel, prediction: Prediction) -> float:
    """How far x_t = alpha x_0 + sigma eps is from holding."""
    rebuilt = column(level.alpha, x) * prediction.x0 + column(level.sigma, x) * prediction.eps
    return (rebuilt - x).abs().max().item()


@pytest.fixture(scope="session")
def tools() -> SimpleNamespace:
    return SimpleNamespace(Mixture=Mixture, Labelled=Labelled, draw=draw, labels=labels, times=times, residual=residual)
