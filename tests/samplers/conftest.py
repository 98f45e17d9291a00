"""A closed-form denoiser, grids that end at a noisy level, and the slope of a sampler's error against its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from diffusion_fw.likelihood.integrate import integrate
from diffusion_fw.process.level import NoiseLevel, expand
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.process.schedules.continuous import VP
from diffusion_fw.samplers.grid import Grid
from diffusion_fw.samplers.sampler import Sampler

MEANS = torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.6, -0.9]], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.4, 0.35], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


@dataclass(frozen=True)
class Mixture:
    """The exact posterior mean of x_0 for a mixture of isotropic Gaussians in the plane."""

    schedule: Schedule
    means: Tensor = MEANS
    stds: Tensor = STDS
    weights: Tensor = WEIGHTS

    def __call__(self, x: Tensor, level: NoiseLevel, cond: object = None) -> Prediction:
        alpha, sigma = expand(level.alpha, x), expand(level.sigma, x)
        means, stds = self.means.to(x.dtype), self.stds.to(x.dtype)
        alpha, sigma = (
            torch.as_tensor(alpha).to(x.dtype).reshape(-1, 1),
            torch.as_tensor(sigma).to(x.dtype).reshape(-1, 1),
        )
        variance = alpha**2 * stds**2 + sigma**2
        offset = x[:, None] - alpha[..., None] * means
        logits = (
            self.weights.to(x.dtype).log() - offset.square().sum(-1) / (2 * variance) - x.shape[1] / 2 * variance.log()
        )
        share = logits.softmax(1)
        x0 = (share[..., None] * (means + (alpha * stds**2 / variance)[..., None] * offset)).sum(1)
        eps = (share[..., None] * (sigma / variance)[..., None] * offset).sum(1)
        return Prediction(x0, eps)


def gaussian(schedule: Schedule, std: float = 0.5, mean: float = 0.0) -> Mixture:
    """The exact denoiser of N(mean, std^2) in one dimension."""
    one = torch.ones(1, dtype=torch.float64)
    return Mixture(schedule, mean * one[:, None], std * one, one)


@dataclass(frozen=True)
class Interior(Grid):
    """Times from ``begin`` to ``end`` > 0, equidistant in log-SNR, or uneven in it."""

    begin: float = 1.0
    end: float = 0.02
    even: bool = True

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        if not self.even:
            u = u + 0.4 * u * (1 - u)
        first, last = schedule(torch.tensor([self.begin, self.end], dtype=torch.float64)).log_snr
        times = schedule.time(torch.lerp(first, last, u))
        return torch.cat([times.new_tensor([self.begin]), times[1:-1], times.new_tensor([self.end])])

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        return self.noisy_times(steps, schedule)


@dataclass(frozen=True)
class Clean(Interior):
    """The same times, and then 0."""

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        return super().noisy_times(steps - 1, schedule)

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        return Grid.__call__(self, steps, schedule)


def flow(denoiser: Mixture, x: Tensor, start: float, end: float) -> Tensor:
    """The probability flow from one time to another, d(x / alpha) = -rho eps d lambda, to twelve digits."""
    schedule = denoiser.schedule
    first, last = schedule(torch.tensor([start, end], dtype=torch.float64)).unbind()

    def derivative(half_log_snr: Tensor, y: Tensor) -> Tensor:
        level = schedule(schedule.time(2 * half_log_snr))
        eps = denoiser(expand(level.alpha, y) * y, level).eps
        return -expand(level.sigma / level.alpha, y) * eps

    span = (first.log_snr.item() / 2, last.log_snr.item() / 2)
    return last.alpha * integrate(derivative, x / first.alpha, *span, atol=1e-12, rtol=1e-12).x


def start(count: int = 8) -> Tensor:
    return torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def slope(counts: Sequence[int], errors: Sequence[float]) -> float:
    """The order of convergence: the slope of -log error against log steps by regression."""
    x, y = torch.tensor(counts, dtype=torch.float64).log(), torch.tensor(errors, dtype=torch.float64).log()
    x, y = x - x.mean(), y - y.mean()
    return -(x * y).sum().item() / x.square().sum().item()


def moments(sampler: Sampler, denoiser: Mixture) -> tuple[float, float]:
    """Mean and variance of a sampler's output, exactly, where the denoiser is linear in x and x_T is standard normal.

    The output is linear in x_T and every draw, so a batch in which each draw is 1 for one example alone gives all
    responses at once, and the variance is the sum of their squares.
    """
    draws = 0

    def count(like: Tensor) -> Tensor:
        nonlocal draws
        draws += 1
        return torch.zeros_like(like)

    sampler(denoiser, torch.zeros(1, 1, dtype=torch.float64), noise=count)
    total, drawn = draws, 0

    def impulse(like: Tensor) -> Tensor:
        nonlocal drawn
        z = torch.zeros_like(like)
        z[drawn] = 1
        drawn += 1
        return z

    x = torch.zeros(total + 2, 1, dtype=torch.float64)
    x[total] = 1
    *responses, mean = sampler(denoiser, x, noise=impulse)[:, 0]
    return mean.item(), sum((response - mean).square().item() for response in responses)


@pytest.fixture(scope="session")
def measured_order() -> Callable[..., float]:
    """The order of convergence to the probability flow on the variance-preserving path, at the last noisy level."""
    references: dict[float, Tensor] = {}

    def measure(
        build: Callable[[int, Grid], Sampler],
        counts: Sequence[int] = (64, 128, 256),
        even: bool = False,
        begin: float = 1.0,
    ) -> float:
        denoiser = Mixture(VP())
        if begin not in references:
            references[begin] = flow(denoiser, start(), begin, 0.02)
        samplers = [build(count, Interior(begin, 0.02, even)) for count in counts]
        errors = [
            (sampler(denoiser, start()) - references[begin]).square().mean().sqrt().item() for sampler in samplers
        ]
        return slope(counts, errors)

    return measure


@pytest.fixture(scope="session")
def weak_order() -> Callable[..., float]:
    """The order of convergence of the variance of a Gaussian's samples on the variance-preserving path."""

    def measure(build: Callable[[int, Grid], Sampler], counts: Sequence[int] = (64, 128, 256)) -> float:
        denoiser = gaussian(VP(), std=0.5)
        level = VP()(torch.tensor(0.02, dtype=torch.float64))
        exact = (0.25 * level.alpha**2 + level.sigma**2).item()
        errors = [abs(moments(build(count, Interior(1.0, 0.02)), denoiser)[1] / exact - 1) for count in counts]
        return slope(counts, errors)

    return measure


@pytest.fixture(scope="session")
def tools() -> SimpleNamespace:
    """The above for tests that use them directly."""
    return SimpleNamespace(
        Mixture=Mixture, Interior=Interior, Clean=Clean, gaussian=gaussian, flow=flow, start=start, moments=moments
    )
