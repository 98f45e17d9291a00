"""The laws of time samplers: noisy times from the generator alone, with weights that keep the loss unbiased."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.checking.findings import Row, at_least, at_most, verdict
from diffusion_fw.checking.subject import Check, Subject, schedules
from diffusion_fw.objectives.time_sampler import TimeSampler
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError

COUNT = 4096


def _draw(sampler: TimeSampler, schedule: Schedule, count: int = COUNT, seed: int = 0) -> Tensor:
    return sampler(count, schedule, torch.Generator().manual_seed(seed))


def _accepted(subject: Subject) -> dict[str, Schedule]:
    """The schedules from which it draws."""
    found = {}
    for name, schedule in schedules().items():
        try:
            _draw(subject.build(), schedule, count=2)
        except ConfigError:
            continue
        found[name] = schedule
    return found


def times(subject: Subject) -> Iterator[Row]:
    """(count,) float64 times in [t_min, 1], on rows of a table, for any count."""
    accepted = _accepted(subject)
    for name, schedule in accepted.items():
        wrong = None
        for count in (1, 7, COUNT):
            t = _draw(subject.build(), schedule, count)
            if t.shape != (count,) or t.dtype != torch.float64:
                wrong = f"shape {tuple(t.shape)}, {t.dtype} for {count} times"
            elif not bool(((t >= schedule.t_min) & (t <= 1)).all()):
                wrong = f"{t.min().item():g} .. {t.max().item():g}"
            elif not torch.allclose(schedule.snap(t), t, rtol=0, atol=1e-12):
                wrong = "times between the rows of the table"
        yield verdict("times", name, wrong, f"in [{schedule.t_min:g}, 1], float64")
    yield at_least("schedules that it draws from", "", len(accepted), 1)


def randomness(subject: Subject) -> Iterator[Row]:
    """The same generator gives the same times, another one gives others, and no other randomness is used."""
    name, schedule = next(iter(_accepted(subject).items()))
    state = torch.get_rng_state()
    first, second, other = (_draw(subject.build(), schedule, seed=seed) for seed in (0, 0, 1))
    wrong = None if torch.equal(first, second) else "other times"
    yield verdict("one generator, twice", name, wrong, "the same times")
    yield verdict("another generator", name, "the same times" if torch.equal(first, other) else None, "other times")
    wrong = None if torch.equal(state, torch.get_rng_state()) else "torch's global generator was used"
    yield verdict("source of randomness", name, wrong, "the generator alone")


def _distance(t: Tensor, reference: Tensor) -> float:
    """The largest difference of the two distribution functions (Kolmogorov and Smirnov)."""
    places = torch.cat([t, reference]).unique()
    below = (torch.searchsorted(values.sort().values, places, right=True) / len(values) for values in (t, reference))
    first, second = below
    return (first - second).abs().max().item()


def stratification(subject: Subject) -> Iterator[Row]:
    """A batch of n with ``stratified`` covers the same distribution evenly: no fraction is off by more than 1 / n."""
    if "stratified" not in registry.entry(subject.group, subject.name).parameters:
        return
    name, schedule = next(iter(_accepted(subject).items()))
    reference = _draw(subject.build(stratified=True), schedule, 1 << 16)
    distance = _distance(_draw(subject.build(stratified=True), schedule, 64), reference)
    yield at_most("distribution of a stratified batch of 64", name, distance, 1 / 64 + 2.0**-16, digits=".4f")
    distance = _distance(_draw(subject.build(stratified=False), schedule), reference)
    # Kolmogorov's 99.9% quantile.
    bound = 1.95 * math.sqrt(1 / COUNT + 2.0**-16)
    yield at_most("distribution of independent times", name, distance, bound, digits=".4f")


def weights(subject: Subject) -> Iterator[Row]:
    """A weight is 1 over the relative density of its time: its mean over draws is 1, also after learning."""
    name, schedule = next(iter(_accepted(subject).items()))
    sampler = subject.build()
    for _ in range(20):
        t = _draw(sampler, schedule)
        sampler.update(t, 1 + 5 * t.square())
    t = _draw(sampler, schedule, seed=1)
    weight = sampler.weight(t)
    bound = 5 * weight.std().item() / math.sqrt(COUNT) + 1e-9
    yield at_most("mean weight of the drawn times - 1", name, abs(weight.mean().item() - 1), bound, digits=".3f")
    wrong = None if weight.shape == t.shape and bool((weight > 0).all()) else "not positive or not of t's shape"
    yield verdict("weights", name, wrong, "positive, of t's shape")
    copy = subject.build()
    _draw(copy, schedule, count=2)
    copy.load_state_dict(sampler.state_dict())
    wrong = None if torch.equal(_draw(copy, schedule), _draw(sampler, schedule)) else "other times"
    yield verdict("draws after saving and loading its state", name, wrong, "the same times")


CHECKS: tuple[Check, ...] = (times, randomness, stratification, weights)
