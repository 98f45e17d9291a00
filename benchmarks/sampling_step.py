"""DDIM with an identity network: the cost of the loop itself, against a bare loop and other libraries."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import diffusion_fw as dfw
from benchmarks.row import Missing, Row, installed
from benchmarks.timing import compared, in_turns

STEPS = 50
BOUND = 1.5


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


def diffusers(network: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """The loop of the library's documentation: DDIMScheduler, no clipping."""
    from diffusers import DDIMScheduler

    scheduler: Any = DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=False)

    def sample() -> Tensor:
        scheduler.set_timesteps(STEPS)
        sample = x
        for t in scheduler.timesteps:
            sample = scheduler.step(network(sample, t.expand(len(x))), t, sample).prev_sample
        return sample

    return sample


def azula(network: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """The library's DDIMSampler with its simplest denoiser, which scales the input and predicts x_0."""
    from azula.denoise import SimpleDenoiser
    from azula.noise import VPSchedule
    from azula.sample import DDIMSampler

    # It looks for the precision of a parameter.
    network.register_buffer("precision", torch.zeros(()))
    sampler = DDIMSampler(SimpleDenoiser(network, VPSchedule()), steps=STEPS, silent=True)
    return functools.partial(sampler, x)


PEERS = {"diffusers": diffusers, "azula": azula}


def measure() -> Iterator[Row | Missing]:
    schedule = dfw.build("schedule", "linear")
    denoiser = dfw.NetworkDenoiser(Null(), schedule, dfw.build("parameterization", "epsilon"))
    sampler = dfw.build("sampler", "ddim", steps=STEPS)
    levels = sampler.levels(schedule)
    columns = (1000 * levels.t[:-1] - 1, levels.alpha[:-1], levels.sigma[:-1], levels.alpha[1:], levels.sigma[1:])
    table = list(zip(*(column.tolist() for column in columns), strict=True))
    for batch in (1, 64):
        name = f"{STEPS} sampling steps, null network, batch {batch} of 3x32x32"
        x = torch.randn(batch, 3, 32, 32)
        with torch.no_grad():
            expected, found = bare(denoiser.network, x, table), sampler(denoiser, x)
            assert torch.allclose(expected, found, rtol=1e-3, atol=1e-3), "the two do not compute the same"
            others: dict[str, Callable[[], object]] = {
                "a bare loop": functools.partial(bare, denoiser.network, x, table)
            }
            others |= {peer: prepare(Null(), x) for peer, prepare in PEERS.items() if installed(peer)}
            rounds = in_turns([functools.partial(sampler, denoiser, x), *others.values()], repeats=4)
        for index, against in enumerate(others, start=1):
            pairs = [(times[0], times[index]) for times in rounds]
            yield compared(name, against, pairs, BOUND if index == 1 else 1.0)
        yield from (Missing(name, peer) for peer in PEERS if peer not in others)
