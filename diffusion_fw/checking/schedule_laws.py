"""What every schedule promises: the path it states, its inverse and its derivatives agree, up to both ends."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from diffusion_fw.checking.findings import Row
from diffusion_fw.checking.subject import Check, Subject, verdict
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError

STEP = 1e-5
"""Of the central differences, whose error is of the order of its square."""


def noisy_times(schedule: Schedule) -> Tensor:
    """Noisy times up to 1, increasing: the rows of a table, many scales of a continuous schedule."""
    even = schedule.fraction(torch.linspace(0, 1, 1001, dtype=torch.float64))
    small = torch.logspace(math.log10(schedule.t_min), 0, 61, dtype=torch.float64)
    return schedule.snap(torch.cat([even, small])).clamp(schedule.t_min, 1).unique()


def interior(schedule: Schedule) -> NoiseLevel:
    """The levels that have both signal and noise."""
    level = schedule(noisy_times(schedule))
    return level[level.log_snr.isfinite()]


def _largest(found: Tensor, wanted: Tensor, scale: Tensor | float = 1.0) -> float:
    """The largest difference in units of scale, infinite for NaN."""
    return ((found - wanted).abs() / scale).nan_to_num(nan=math.inf).max().item()


def clean_data(subject: Subject) -> Iterator[Row]:
    """Time 0 is clean: alpha = 1, sigma = 0."""
    level = subject.build()(torch.zeros((), dtype=torch.float64))
    found = (level.alpha.item(), level.sigma.item(), level.log_snr.item())
    yield Row(
        "level at t = 0",
        "",
        f"alpha = {found[0]:g}, sigma = {found[1]:g}, log_snr = {found[2]:g}",
        "1, 0, inf",
        found == (1, 0, math.inf),
    )


def levels(subject: Subject) -> Iterator[Row]:
    """Levels are float64, of the shape of t, without NaN, and sigma is finite up to t = 1."""
    schedule = subject.build()
    t = noisy_times(schedule)
    for shape in ((), (1,), (2, 3)):
        at = t[-6:].reshape(2, 3) if shape == (2, 3) else t[-1].reshape(shape)
        found = {(tuple(value.shape), value.dtype) for value in schedule(at)}
        wrong = None if found == {(shape, torch.float64)} else ", ".join(f"{s} {d}" for s, d in found)
        yield verdict("shape and precision", f"t of shape {shape}", wrong, f"{shape} torch.float64")
    level = schedule(torch.cat([t.new_zeros(1), t]))
    wrong = "NaN" if any(bool(value.isnan().any()) for value in level) else None
    if not bool(level.sigma.isfinite().all() and level.alpha.isfinite().all()):
        wrong = "infinite alpha or sigma"
    yield verdict("values from t = 0 to t = 1", "", wrong, "no NaN, alpha and sigma finite")


def signal_to_noise(subject: Subject) -> Iterator[Row]:
    """log_snr = 2 log(alpha / sigma), and falls strictly."""
    schedule = subject.build()
    level = interior(schedule)
    found = _largest(level.log_snr, 2 * (level.alpha.log() - level.sigma.log()), 1 + level.log_snr.abs())
    yield Row("log_snr", "", f"off by {found:.0e}", "2 log(alpha / sigma), to 1e-10", found <= 1e-10)
    rise = schedule(noisy_times(schedule)).log_snr.diff()
    yield verdict(
        "log_snr over t", "", None if bool((rise < 0).all()) else "does not fall everywhere", "falls strictly"
    )


def inverse(subject: Subject) -> Iterator[Row]:
    """time(log_snr(t)) = t, and any log_snr has a time in [0, 1], 0 only for clean data."""
    schedule = subject.build()
    level = interior(schedule)
    found = _largest(schedule.time(level.log_snr), level.t, level.t)
    yield Row("time(log_snr(t))", "", f"off by {found:.0e} of t", "t, to 1e-7", found <= 1e-7)
    t = schedule.time(torch.tensor([math.inf, 200.0, 30.0, 0.0, -30.0, -200.0, -math.inf], dtype=torch.float64))
    inside = bool((t[0] == 0) & (t[1:] > 0).all() & (t <= 1).all() & (t.diff() >= 0).all())
    wrong = None if inside else ", ".join(f"{value:g}" for value in t.tolist())
    yield verdict("time of log_snr from inf to -inf", "", wrong, "from 0 rising to at most 1, 0 for inf alone")


def rates(subject: Subject) -> Iterator[Row]:
    """f = d log alpha / dt and g^2 = -sigma^2 d log_snr / dt agree with finite differences; a table has none."""
    schedule = subject.build()
    t = torch.linspace(0.05, 0.95, 37, dtype=torch.float64)
    if not torch.equal(schedule.snap(t + STEP), t + STEP):
        try:
            schedule.rates(t)
            wrong = "given"
        except ConfigError:
            wrong = None
        yield verdict("rates of a table", "", wrong, "refused with a ConfigError")
        return
    above, below, here = schedule(t + STEP), schedule(t - STEP), schedule(t)
    slope = (above.log_snr - below.log_snr) / (2 * STEP)
    # Where the two one-sided differences disagree the path has a corner, and no derivative.
    corner = (above.log_snr + below.log_snr - 2 * here.log_snr).abs() > 0.1 * STEP
    f, g_squared = schedule.rates(t)
    for name, found, wanted in (
        ("f", f, (above.alpha.log() - below.alpha.log()) / (2 * STEP)),
        ("g^2", g_squared, -here.sigma.square() * slope),
    ):
        gap = _largest(found[~corner], wanted[~corner], 1 + wanted[~corner].abs())
        yield Row(f"rate {name}", "", f"off by {gap:.0e}", "the finite difference, to 1e-5", gap <= 1e-5)


def fractions(subject: Subject) -> Iterator[Row]:
    """``fraction`` spreads the noisy times, from t_min to 1, and ``snap`` keeps them."""
    schedule = subject.build()
    t = schedule.fraction(torch.linspace(0, 1, 101, dtype=torch.float64))
    spread = bool((t.diff() >= 0).all()) and abs(t[0].item() - schedule.t_min) < 1e-12 and t[-1].item() == 1
    yield verdict("fraction(u)", "", None if spread else f"{t[0]:g} .. {t[-1]:g}", "rises from t_min to 1")
    kept = torch.allclose(schedule.snap(t), t, rtol=0, atol=1e-12)
    yield verdict("snap(fraction(u))", "", None if kept else "moved", "the same")


CHECKS: tuple[Check, ...] = (clean_data, levels, signal_to_noise, inverse, rates, fractions)
