"""The laws of schedules: alpha, sigma, log_snr, the inverse and the derivatives agree, up to both ends of the path."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from diffusion_fw.checking.findings import Row, at_most, verdict
from diffusion_fw.checking.subject import Check, Subject
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.process.transition import posterior
from diffusion_fw.registry import ConfigError

STEP = 1e-5
"""Half the distance of central differences, whose error is of the order of its square."""
BETWEEN = torch.linspace(0.0531, 0.9473, 37, dtype=torch.float64)
"""Times that are no round numbers, where a path might have a corner and no derivative."""


def noisy_times(schedule: Schedule) -> Tensor:
    """Noisy times up to 1, increasing: the rows of a table, many scales of a continuous schedule."""
    even = schedule.fraction(torch.linspace(0, 1, 4001, dtype=torch.float64))
    small = torch.logspace(math.log10(schedule.t_min), 0, 61, dtype=torch.float64)
    result: Tensor = schedule.snap(torch.cat([even, small])).clamp(schedule.t_min, 1).unique()
    return result


def all_times(schedule: Schedule) -> Tensor:
    """0 and the noisy times."""
    t = noisy_times(schedule)
    return torch.cat([t.new_zeros(1), t])


def is_table(schedule: Schedule) -> bool:
    """Whether it is defined at some times only."""
    return not torch.equal(schedule.snap(BETWEEN), BETWEEN)


def _error(found: Tensor, wanted: Tensor, scale: Tensor | float = 1.0) -> float:
    """The largest difference in units of scale: 0 where both are the same infinity, infinite for NaN."""
    gap = ((found - wanted).abs() / scale).nan_to_num(nan=math.inf)
    return torch.where(found == wanted, 0.0, gap).max().item()


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
    """Levels are float64, of the shape of t, without NaN; alpha and sigma are finite up to t = 1."""
    schedule = subject.build()
    t = all_times(schedule)
    for shape in ((), (1,), (2, 3)):
        at = t[-6:].reshape(2, 3) if shape == (2, 3) else t[-1].reshape(shape)
        found = {(tuple(value.shape), value.dtype) for value in schedule(at).tensors()}
        wrong = None if found == {(shape, torch.float64)} else ", ".join(f"{s} {d}" for s, d in found)
        yield verdict("shape and precision", f"t of shape {shape}", wrong, f"{shape} torch.float64")
    level = schedule(t)
    wrong = "NaN" if any(bool(value.isnan().any()) for value in level.tensors()) else None
    if not bool(level.sigma.isfinite().all() and level.alpha.isfinite().all()):
        wrong = "infinite or NaN"
    yield verdict("values from t = 0 to t = 1", "", wrong, "no NaN, alpha and sigma finite")


def signal_to_noise(subject: Subject) -> Iterator[Row]:
    """log_snr = 2 log(alpha / sigma), and falls strictly."""
    schedule = subject.build()
    level = schedule(all_times(schedule))
    error = _error(level.log_snr, 2 * (level.alpha.log() - level.sigma.log()), 1 + level.log_snr.abs())
    yield at_most("log_snr - 2 log(alpha / sigma)", "", error, 1e-11, "of 1 + log_snr")
    falls = bool((level.log_snr.diff() < 0).all())
    yield verdict("log_snr over t", "", None if falls else "does not fall everywhere", "falls strictly")


def inverse(subject: Subject) -> Iterator[Row]:
    """time(log_snr(t)) = t, and any log_snr has a time in [0, 1]: 0 for clean data alone, 1 for pure noise."""
    schedule = subject.build()
    t = all_times(schedule)
    error = _error(schedule.time(schedule(t).log_snr), t, 1e-3 + t)
    yield at_most("time(log_snr(t)) - t", "", error, 1e-9, "of 0.001 + t")
    # In single precision, as a user may write them.
    t = schedule.time(torch.tensor([math.inf, 200.0, 30.0, 0.0, -30.0, -200.0, -math.inf]))
    right = bool((t[0] == 0) & (t[1:] > 0).all() & (t.diff() >= 0).all() & (t[-1] == 1))
    wrong = None if right else ", ".join(f"{value:g}" for value in t.tolist())
    yield verdict("time of log_snr from inf to -inf", "", wrong, "from 0, for inf alone, rising to 1")


def rates(subject: Subject) -> Iterator[Row]:
    """f = d log alpha / dt and g^2 = -sigma^2 d log_snr / dt: the finite differences of the path; a table has none.

    A rate that is written out agrees with the derivative of the path by automatic differentiation, also near both ends.
    """
    schedule = subject.build()
    if is_table(schedule):
        try:
            schedule.rates(BETWEEN)
            wrong = "given"
        except ConfigError:
            wrong = None
        yield verdict("rates of a table", "", wrong, "refused with a ConfigError")
        return
    above, below = schedule(BETWEEN + STEP), schedule(BETWEEN - STEP)
    slope = (above.log_snr - below.log_snr) / (2 * STEP)
    f, g_squared = schedule.rates(BETWEEN)
    for name, found, wanted in (
        ("f", f, (above.alpha.log() - below.alpha.log()) / (2 * STEP)),
        ("g^2", g_squared, -schedule(BETWEEN).sigma.square() * slope),
    ):
        error = _error(found, wanted, 0.01 + wanted.abs())
        yield at_most(f"rate {name} - its finite difference", "", error, 1e-6, "of 0.01 + its size")
    t = torch.tensor([1e-3, 0.01, 0.3, 0.77, 0.999], dtype=torch.float64)
    try:
        automatic = Schedule.rates(schedule, t)
    except RuntimeError as reason:
        yield Row("rates by automatic differentiation", "", f"not measured: {reason}")
        return
    for name, found, wanted in zip(("f", "g^2"), schedule.rates(t), automatic, strict=True):
        error = _error(found, wanted, 1e-3 + wanted.abs())
        yield at_most(f"rate {name} - its automatic derivative", "", error, 1e-9, "of 0.001 + its size")


def elbo_weight(subject: Subject) -> Iterator[Row]:
    """-1/2 d snr / dt; on a table T times the weight c_x0^2 / (2 var_small) of |x_0 - x_0_hat|^2 in L_{k-1}.

    Ho et al. 2020, equation 8; at the first row 1 / (2 sigma_1^2) in place of the latter.
    """
    schedule = subject.build()
    if is_table(schedule):
        t = noisy_times(schedule)
        step = posterior(schedule(t[1:]), schedule(schedule.snap(t[1:] - schedule.t_min)))
        first = 1 / (2 * schedule(t[:1]).sigma.square())
        wanted = torch.cat([first, step.c_x0.square() / (2 * step.var_small)]) / schedule.t_min
        found = schedule.elbo_weight(t)
    else:
        above, below = (schedule(BETWEEN + offset).log_snr.exp() for offset in (STEP, -STEP))
        found, wanted = schedule.elbo_weight(BETWEEN), -(above - below) / (4 * STEP)
    yield at_most("ELBO weight - half the fall of snr", "", _error(found, wanted, wanted.abs()), 1e-6, "of its size")


def fractions(subject: Subject) -> Iterator[Row]:
    """``fraction`` spreads the noisy times evenly from t_min to 1, and ``snap`` keeps them."""
    schedule = subject.build()
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    t = schedule.fraction(u)
    ends = abs(t[0].item() - schedule.t_min) < 1e-12 * schedule.t_min and t[-1].item() == 1
    rises = ends and bool((t.diff() >= 0).all())
    yield verdict("fraction(u)", "", None if rises else f"{t[0]:g} .. {t[-1]:g}", "rises from t_min to 1")
    # A table moves each time to one of its rows, which are t_min apart.
    error = _error(t, schedule.t_min + (1 - schedule.t_min) * u)
    yield at_most("fraction(u) - (t_min + (1 - t_min) u)", "", error, schedule.t_min + 1e-12, digits=".2g")
    kept = torch.allclose(schedule.snap(t), t, rtol=0, atol=1e-12)
    yield verdict("snap(fraction(u))", "", None if kept else "moved", "the same")


CHECKS: tuple[Check, ...] = (clean_data, levels, signal_to_noise, inverse, rates, elbo_weight, fractions)
