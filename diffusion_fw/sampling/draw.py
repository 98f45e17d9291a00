"""Many samples, in chunks, each from its own seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.condition import on
from diffusion_fw.denoiser import Denoiser, Noise, prior
from diffusion_fw.noise import SampleNoise, generator
from diffusion_fw.samplers.sampler import Sampler

LABEL_STREAM = 14

CondOf = Callable[[Sequence[int]], Any]
"""What the samples with these indices are told, on the host: labels, a Condition, or None."""


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


def classes_of(class_counts: Sequence[int], seed: int) -> Callable[[Sequence[int]], Tensor | None]:
    """The function that gives the classes of the samples with these indices, on the host; None without classes."""

    def labels(indices: Sequence[int]) -> Tensor | None:
        if not class_counts or not len(indices):
            return None
        return sample_labels(class_counts, max(indices) + 1, seed)[torch.tensor(indices)]

    return labels


def draw(
    sampler: Sampler,
    denoiser: Denoiser,
    shape: tuple[int, ...],
    indices: Sequence[int],
    *,
    seed: int,
    class_counts: Sequence[int] = (),
    cond_of: CondOf | None = None,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Yields (indices, x_0) in chunks; sample i and its class depend on (seed, i) alone.

    For a model that takes labels, ``class_counts`` says how often each class occurs in the training data. One that is
    told something else has ``cond_of``: what the samples with these indices are told, on the host.
    """
    told = cond_of or classes_of(class_counts, seed)
    for first in range(0, len(indices), batch_size):
        part = slice(first, first + batch_size)
        x, noise = start(denoiser, shape, indices[part], seed, device)
        yield indices[part], sampler(denoiser, x, cond=on(told(indices[part]), device), noise=noise)


@torch.no_grad()
def follow(
    sampler: Sampler, denoiser: Denoiser, x: Tensor, *, cond: Any = None, noise: Noise = torch.randn_like, count: int
) -> tuple[list[float], Tensor, Tensor]:
    """At most ``count`` times from noise to data, both ends included, with x_t and the x_0 predicted from it.

    Both (S, B, *shape), on the host; at t = 0 they are the sample. No other states are held.
    """
    schedule = denoiser.schedule
    last = sampler.step_count(schedule)
    wanted = set(torch.linspace(0, last, min(count, last + 1)).round().long().tolist())
    shown: list[tuple[float, Tensor, Tensor]] = []
    t = float(sampler.levels(schedule).t[0])
    for index, step in enumerate(sampler.trajectory(denoiser, x, cond=cond, noise=noise)):
        # The prediction of a step is made at the state where the step starts.
        if index in wanted and index < last:
            shown.append((t, x.cpu(), step.x0.cpu()))
        t, x = step.t, step.x
    if last in wanted:
        shown.append((t, x.cpu(), x.cpu()))
    times, states, predictions = zip(*shown, strict=True)
    return list(times), torch.stack(states), torch.stack(predictions)


def frames(
    sampler: Sampler,
    denoiser: Denoiser,
    shape: tuple[int, ...],
    indices: Sequence[int],
    *,
    seed: int,
    class_counts: Sequence[int] = (),
    cond_of: CondOf | None = None,
    count: int = 10,
    device: torch.device | str = "cpu",
) -> tuple[list[float], Tensor, Tensor]:
    """``follow`` of the samples with these indices: the times, the states and the predictions of x_0."""
    x, noise = start(denoiser, shape, indices, seed, device)
    cond = on((cond_of or classes_of(class_counts, seed))(indices), device)
    return follow(sampler, denoiser, x, cond=cond, noise=noise, count=count)
