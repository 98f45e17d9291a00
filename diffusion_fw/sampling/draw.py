"""Many samples, in chunks, each from its own seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, prior, seeded
from diffusion_fw.noise import SampleNoise, generator
from diffusion_fw.samplers.sampler import Sampler, Step

LABEL_STREAM = 14


def start(
    denoiser: Denoiser, shape: tuple[int, ...], indices: Sequence[int], seed: int, device: torch.device | str
) -> tuple[Tensor, SampleNoise]:
    """x_T of the samples with these indices, and the noise of their later steps."""
    noise = SampleNoise(seed, indices, device)
    return prior(denoiser.schedule, (len(indices), *shape), noise, device), noise


def sample_labels(class_counts: Sequence[int], count: int, seed: int) -> Tensor:
    """The classes of samples 0 .. count - 1, int64, as frequent as in ``class_counts``.

    Class k of c_k training examples has its n-th sample at the place (n + u_k) / c_k, and the samples are in the order
    of their places; u is a permutation of (j + 1/2) / K that depends on the seed. So every N = sum_k c_k samples in a
    row hold class k exactly c_k times, and any number of first samples about in proportion, without the variance of
    independent draws. With equal counts the classes take turns in the order of the permutation. Counts that are all 0
    are not known, as of a checkpoint of version 0.1.0: sample i then has class i mod K, as in that version.
    """
    if not any(class_counts):
        return torch.arange(count) % len(class_counts)
    counts, classes = torch.tensor(class_counts, dtype=torch.float64), len(class_counts)
    phase = (torch.randperm(classes, generator=generator(seed, LABEL_STREAM)).double() + 0.5) / classes
    # The last place that is needed lies below (count + classes) / N.
    repeats = (counts * ((count + classes) / counts.sum()) - phase).floor().long() + 1
    label = torch.arange(classes).repeat_interleave(repeats)
    nth = torch.arange(len(label)) - (repeats.cumsum(0) - repeats)[label]
    return label[((nth + phase[label]) / counts[label]).argsort(stable=True)][:count]


def labels_of(
    indices: Sequence[int], class_counts: Sequence[int], seed: int, device: torch.device | str
) -> Tensor | None:
    """The classes of the samples with these indices; None without classes."""
    if not class_counts or not len(indices):
        return None
    return sample_labels(class_counts, max(indices) + 1, seed)[torch.tensor(indices)].to(device)


def draw(
    sampler: Sampler,
    denoiser: Denoiser,
    shape: tuple[int, ...],
    indices: Sequence[int],
    *,
    seed: int,
    class_counts: Sequence[int] = (),
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Yields (indices, x_0) in chunks; sample i and its class depend on (seed, i) alone.

    For a model that takes labels, ``class_counts`` says how often each class occurs in the training data.
    """
    labels = labels_of(indices, class_counts, seed, device)
    for first in range(0, len(indices), batch_size):
        part = slice(first, first + batch_size)
        x, noise = start(denoiser, shape, indices[part], seed, device)
        yield indices[part], sampler(denoiser, x, cond=None if labels is None else labels[part], noise=noise)


@torch.no_grad()
def frames(
    sampler: Sampler,
    denoiser: Denoiser,
    shape: tuple[int, ...],
    indices: Sequence[int],
    *,
    seed: int,
    class_counts: Sequence[int] = (),
    count: int = 10,
    device: torch.device | str = "cpu",
) -> tuple[list[float], Tensor]:
    """The times and states (S, B, *shape) of at most ``count`` steps from noise to data, both ends included."""
    x, noise = start(denoiser, shape, indices, seed, device)
    cond = labels_of(indices, class_counts, seed, device)
    first = float(sampler.levels(denoiser.schedule).t[0])
    steps = [Step(first, x, x), *sampler.trajectory(seeded(denoiser, noise), x, cond=cond, noise=noise)]
    chosen = torch.linspace(0, len(steps) - 1, min(count, len(steps))).round().long().tolist()
    return [steps[i].t for i in chosen], torch.stack([steps[i].x for i in chosen])
