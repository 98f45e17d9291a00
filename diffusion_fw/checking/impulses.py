"""The exact variance of the output of a sampler that is linear in x_T and its noise."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_fw.oracles import Gaussian
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.samplers.sampler import Sampler

STD = 0.5
DATA = Gaussian(torch.zeros(1, dtype=torch.float64), STD)
"""Its denoiser is linear in x, and so is every sampler whose step sizes don't depend on x."""


class Impulses:
    """Noise of which the i-th draw is 1 for example i and 0 for all others."""

    def __init__(self) -> None:
        self.draws = 0

    def __call__(self, like: Tensor) -> Tensor:
        z = torch.zeros_like(like)
        if self.draws < len(z):
            z[self.draws] = 1
        self.draws += 1
        return z


def variance_error(sampler: Sampler, schedule: Schedule) -> float | None:
    """Var[x_0] / 0.5^2 - 1 on data N(0, 0.5^2), from x_T ~ N(0, sigma_T^2); None if the sampler is not linear.

    The output is a linear function of x_T and of every draw of noise. A batch in which each of them is 1 for one
    example alone gives all coefficients at once; the variance is the sum of their squares.
    """
    denoiser = DATA.denoiser(schedule)
    sigma = schedule(torch.ones((), dtype=torch.float64)).sigma
    counted, noise = Impulses(), Impulses()
    zero, one, two = sampler(denoiser, torch.tensor([[0.0], [1.0], [2.0]]).double() * sigma, noise=torch.zeros_like)
    if not bool((two - 2 * one).abs() <= 1e-9 * one.abs()) or bool(zero != 0):
        return None
    sampler(denoiser, torch.zeros(1, 1, dtype=torch.float64), noise=counted)
    x = torch.zeros(counted.draws + 1, 1, dtype=torch.float64)
    x[-1] = sigma
    return sampler(denoiser, x, noise=noise).square().sum().item() / STD**2 - 1
