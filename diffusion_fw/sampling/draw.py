"""Many samples, in chunks, each from its own seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, prior
from diffusion_fw.noise import SampleNoise
from diffusion_fw.samplers.sampler import Sampler, Step


def start(
    denoiser: Denoiser, shape: tuple[int, ...], indices: Sequence[int], seed: int, device: torch.device | str
) -> tuple[Tensor, SampleNoise]:
    """x_T of the samples with these indices, and the noise of their later steps."""
    noise = SampleNoise(seed, indices)
    return prior(denoiser.schedule, (len(indices), *shape), noise).to(device), noise


def cycle_labels(indices: Sequence[int], num_classes: int, device: torch.device | str) -> Tensor | None:
    """The classes of the samples, i mod num_classes for sample i; None without classes."""
    return torch.tensor(indices, device=device) % num_classes if num_classes else None


def draw(
    sampler: Sampler,
    denoiser: Denoiser,
    shape: tuple[int, ...],
    indices: Sequence[int],
    *,
    seed: int,
    num_classes: int = 0,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Yields (indices, x_0) in chunks; sample i depends on (seed, i) alone, and has class i mod num_classes if any."""
    for first in range(0, len(indices), batch_size):
        chunk = indices[first : first + batch_size]
        x, noise = start(denoiser, shape, chunk, seed, device)
        yield chunk, sampler(denoiser, x, cond=cycle_labels(chunk, num_classes, device), noise=noise)


@torch.no_grad()
def frames(
    sampler: Sampler,
    denoiser: Denoiser,
    shape: tuple[int, ...],
    indices: Sequence[int],
    *,
    seed: int,
    num_classes: int = 0,
    count: int = 10,
    device: torch.device | str = "cpu",
) -> tuple[list[float], Tensor]:
    """The times and states (S, B, *shape) of at most ``count`` steps from noise to data, both ends included."""
    x, noise = start(denoiser, shape, indices, seed, device)
    cond = cycle_labels(indices, num_classes, device)
    first = float(sampler.levels(denoiser.schedule).t[0])
    steps = [Step(first, x, x), *sampler.trajectory(denoiser, x, cond=cond, noise=noise)]
    chosen = torch.linspace(0, len(steps) - 1, min(count, len(steps))).round().long().tolist()
    return [steps[i].t for i in chosen], torch.stack([steps[i].x for i in chosen])
