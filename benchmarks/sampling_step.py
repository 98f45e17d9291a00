"""A DDIM step with an identity network, against the same arithmetic in a bare loop."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import diffusion_fw as dfw
from benchmarks.timing import ratio

STEPS = 50
BOUND = 3.0


class Null(nn.Module):
    def forward(self, x: Tensor, label: Tensor, cond: Tensor | None = None) -> Tensor:
        return x


def bare(network: nn.Module, x: Tensor, table: list[tuple[float, float, float, float, float]]) -> Tensor:
    """DDIM written by hand for one schedule: a list of coefficients and a loop."""
    for label, alpha, sigma, alpha_next, sigma_next in table:
        eps = network(x, torch.full((len(x),), label), None)
        x0 = (x - sigma * eps) / alpha
        x = alpha_next * x0 + sigma_next * eps
    return x


def measure() -> Iterator[tuple[str, dict[str, float], float]]:
    schedule = dfw.build("schedule", "linear")
    denoiser = dfw.NetworkDenoiser(Null(), schedule, dfw.build("parameterization", "epsilon"))
    sampler = dfw.build("sampler", "ddim", steps=STEPS)
    levels = sampler.levels(schedule)
    columns = (1000 * levels.t[:-1] - 1, levels.alpha[:-1], levels.sigma[:-1], levels.alpha[1:], levels.sigma[1:])
    table = list(zip(*(column.tolist() for column in columns), strict=True))
    for batch in (1, 64):
        x = torch.randn(batch, 3, 32, 32)
        with torch.no_grad():
            expected, found = bare(denoiser.network, x, table), sampler(denoiser, x)
            assert torch.allclose(expected, found, rtol=1e-3, atol=1e-3), "the two do not compute the same"
            ours = functools.partial(sampler, denoiser, x)
            result = ratio(ours, functools.partial(bare, denoiser.network, x, table), repeats=4)
        yield f"sampling step, null network, batch {batch} of 3x32x32", result, BOUND
