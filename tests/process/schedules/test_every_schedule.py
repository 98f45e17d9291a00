"""What holds for every registered schedule, tables and continuous ones alike."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import jvp

import diffusion_fw as dfw
from diffusion_fw.process.schedule import DiscreteSchedule, Schedule

NAMES = dfw.names("schedule")
SCHEDULES = {name: dfw.build("schedule", name) for name in NAMES}
CONTINUOUS = [name for name, schedule in SCHEDULES.items() if not isinstance(schedule, DiscreteSchedule)]


def times(schedule: Schedule) -> torch.Tensor:
    """0, 1 and what lies between: every row of a table, many scales of a continuous schedule."""
    if isinstance(schedule, DiscreteSchedule):
        return schedule.table.t
    small = torch.logspace(math.log10(schedule.t_min), -1, 60, dtype=torch.float64)
    return torch.cat([torch.zeros(1, dtype=torch.float64), small, torch.linspace(0.11, 1, 300, dtype=torch.float64)])


@pytest.mark.parametrize("name", NAMES)
def test_time_zero_is_clean(name):
    level = SCHEDULES[name](torch.zeros((), dtype=torch.float64))
    assert (level.alpha, level.sigma, level.log_snr) == (1, 0, math.inf)


@pytest.mark.parametrize("name", NAMES)
def test_levels_are_float64_without_nan_and_of_the_shape_of_t(name):
    schedule = SCHEDULES[name]
    t = times(schedule)
    for shape in ((), (1,), (2, 3)):
        level = schedule(t[-6:].expand(6).reshape(2, 3) if shape == (2, 3) else t[-1].expand(shape))
        for value in level:
            assert value.shape == shape
            assert value.dtype == torch.float64
    level = schedule(t)
    assert not any(value.isnan().any() for value in level)
    assert level.sigma.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_log_snr_is_that_of_alpha_and_sigma(name):
    schedule = SCHEDULES[name]
    level = schedule(times(schedule))
    ratio = 2 * (level.alpha.log() - level.sigma.log())
    torch.testing.assert_close(level.log_snr, ratio, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_noise_grows_strictly(name):
    schedule = SCHEDULES[name]
    t = times(schedule).unique()
    assert (schedule(t).log_snr.diff() < 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_time_inverts_log_snr(name):
    schedule = SCHEDULES[name]
    t = times(schedule)
    torch.testing.assert_close(schedule.time(schedule(t).log_snr), t, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_time_of_any_log_snr_lies_in_the_unit_interval_and_only_clean_data_is_at_zero(name):
    schedule = SCHEDULES[name]
    t = schedule.time(torch.tensor([math.inf, 200.0, 30.0, 0.0, -30.0, -200.0, -math.inf]))
    assert t[0] == 0
    assert (t[1:] > 0).all()
    assert (t <= 1).all()
    assert (t.diff() >= 0).all()
    assert t[-1] == 1


@pytest.mark.parametrize("name", NAMES)
def test_fraction_reaches_from_the_smallest_noisy_time_to_one(name):
    schedule = SCHEDULES[name]
    t = schedule.fraction(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert t[0] == pytest.approx(schedule.t_min, rel=1e-12)
    assert t[-1] == 1
    assert (t.diff() >= 0).all()
    assert t.mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_rates_are_the_derivatives_of_the_path(name):
    schedule = SCHEDULES[name]
    t, h = torch.linspace(0.05, 0.95, 37, dtype=torch.float64), 1e-5
    f, g_squared = schedule.rates(t)
    above, below = schedule(t + h), schedule(t - h)
    slope = (above.log_snr - below.log_snr) / (2 * h)
    smooth = (t - 0.5).abs() > 2 * h  # laplace has its peak there
    expected = (above.alpha.log() - below.alpha.log()) / (2 * h), -schedule(t).sigma.square() * slope
    for mine, difference in zip((f, g_squared), expected, strict=True):
        torch.testing.assert_close(mine[smooth], difference[smooth], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_written_out_rate_agrees_with_the_derivative_by_automatic_differentiation(name):
    schedule = SCHEDULES[name]
    t = torch.tensor([1e-3, 0.01, 0.3, 0.77, 0.999], dtype=torch.float64)
    for mine, general in zip(schedule.rates(t), Schedule.rates(schedule, t), strict=True):
        torch.testing.assert_close(mine, general, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_written_out_inverse_agrees_with_bisection(name):
    schedule = SCHEDULES[name]
    log_snr = schedule(torch.tensor([1e-3, 0.01, 0.3, 0.77, 0.999], dtype=torch.float64)).log_snr
    torch.testing.assert_close(schedule.time(log_snr), Schedule.time(schedule, log_snr), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_elbo_weight_is_half_the_fall_of_snr(name):
    schedule = SCHEDULES[name]
    t = torch.tensor([0.1, 0.3, 0.77, 0.99], dtype=torch.float64)
    _, slope = jvp(lambda time: schedule(time).log_snr.exp(), (t,), (torch.ones_like(t),))
    torch.testing.assert_close(schedule.elbo_weight(t), -slope / 2, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(CONTINUOUS)))
def test_a_table_has_no_rates_and_says_so(name):
    with pytest.raises(dfw.ConfigError, match="schedule=vp"):
        SCHEDULES[name].rates(torch.tensor([0.5]))
