"""The closed-form problem on which samplers are checked: a mixture of three Gaussians in the plane and its flow."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from diffusion_fw.likelihood.integrate import integrate
from diffusion_fw.likelihood.probability_flow import angle, radius, velocity
from diffusion_fw.oracles import GaussianMixture
from diffusion_fw.process.level import NoiseLevel, expand
from diffusion_fw.process.schedule import Schedule

MIXTURE = GaussianMixture(
    means=torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.6, -0.9]], dtype=torch.float64),
    stds=torch.tensor([0.3, 0.4, 0.35], dtype=torch.float64),
    weights=torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
)


def normal(count: int, seed: int = 0) -> Tensor:
    """(count, 2) standard normal draws, float64."""
    return torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def start(level: NoiseLevel, count: int = 8, seed: int = 0) -> Tensor:
    """Points (count, 2) of the size of x_t at one level: hypot(alpha, sigma) times standard normal draws."""
    x = normal(count, seed)
    return expand(radius(level), x) * x


@functools.lru_cache(maxsize=64)
def flow(schedule: Schedule, first: float, last: float) -> Tensor:
    """``start`` moved along the mixture's probability flow from time ``first`` to ``last``, to twelve digits."""
    levels = schedule(torch.tensor([first, last], dtype=torch.float64))
    begin, end = levels.unbind()
    u = start(begin) / expand(radius(begin), start(begin))
    solution = integrate(velocity(MIXTURE.denoiser(schedule), None), u, *angle(levels).tolist(), atol=1e-12, rtol=1e-12)
    return expand(radius(end), u) * solution.x
