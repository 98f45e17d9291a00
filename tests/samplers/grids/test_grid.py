"""Grids on tables and continuous schedules; the laws that all of them keep are in checking/grid_laws.py."""

from __future__ import annotations

import math

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.checking.subject import schedules

NAMES = dfw.names("grid")
# Their times are not those of rows.
BETWEEN_ROWS = {"explicit", "karras", "levels_of", "log_snr"}
PATHS = ["linear", "cosine", "ncsn", "vp", "ve", "edm", "flow", "cosine_continuous"]


def grid(name: str, steps: int):
    if name == "explicit":
        return dfw.build("grid", name, times=torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist())
    return dfw.build("grid", name)


@pytest.mark.parametrize("name", NAMES)
def test_no_usual_number_of_steps_is_refused_on_any_schedule(name):
    """The laws let a grid refuse."""
    for schedule in schedules().values():
        for steps in (1, 2, 7, 50, 100):
            assert len(grid(name, steps)(steps, schedule)) == steps + 1


@pytest.mark.parametrize("name", sorted(set(NAMES) - BETWEEN_ROWS))
def test_as_many_steps_as_a_table_has_rows_visit_every_row(name):
    schedule = dfw.build("schedule", "linear", num_steps=200)
    torch.testing.assert_close(grid(name, 200)(200, schedule), schedule.table.t.flip(0), rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", sorted(set(NAMES) - BETWEEN_ROWS))
def test_more_steps_than_rows_are_refused(name):
    with pytest.raises(dfw.ConfigError, match=r"sampler\.steps"):
        grid(name, 201)(201, dfw.build("schedule", "linear", num_steps=200))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["uniform", "linspace", "karras", "levels_of", "log_snr", "respaced"])
def test_a_grid_for_all_noise_starts_where_x_t_is_drawn(name, path):
    assert dfw.build("grid", name)(12, dfw.build("schedule", path))[0] == 1


@pytest.mark.parametrize("path", PATHS)
def test_log_snr_steps_are_even(path):
    schedule = dfw.build("schedule", path)
    log_snr = schedule(dfw.build("grid", "log_snr")(30, schedule)).log_snr[1:-1]
    torch.testing.assert_close(log_snr.diff(), log_snr.diff()[:1].expand(28), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("path", ["linear", "vp", "ve", "edm"])
def test_log_snr_reaches_from_the_end_of_the_schedule_to_its_smallest_noise(path):
    schedule = dfw.build("schedule", path)
    times = dfw.build("grid", "log_snr")(10, schedule)
    assert times[-2].item() == pytest.approx(schedule.t_min, rel=1e-9)
    step = schedule(times).log_snr.diff()
    assert step[0].item() == pytest.approx(step[1].item(), rel=1e-9)


@pytest.mark.parametrize("name", ["karras", "log_snr"])
def test_a_grid_in_noise_is_the_same_in_noise_on_every_schedule_that_reaches_it(name):
    range_of = {"karras": {"sigma_min": 0.05, "sigma_max": 20.0}, "log_snr": {"log_snr_min": -6.0, "log_snr_max": 6.0}}
    found = []
    for path in ("linear", "cosine", "vp", "edm", "flow", "ve"):
        schedule = dfw.build("schedule", path)
        found.append(schedule(dfw.build("grid", name, **range_of[name])(15, schedule)).log_snr[1:-1])
    for log_snr in found[1:]:
        torch.testing.assert_close(log_snr, found[0], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("steps", [2, 10, 100])
@pytest.mark.parametrize("num_steps", [10, 1000])
@pytest.mark.parametrize("name", ["karras", "log_snr"])
def test_a_grid_in_noise_goes_from_pure_noise_to_the_rows_that_have_signal(name, num_steps, steps):
    schedule = dfw.build("schedule", "cosine", num_steps=num_steps, zero_terminal_snr=True)
    level = schedule(dfw.build("grid", name)(steps, schedule))
    assert level.log_snr[0] == -math.inf
    assert level.log_snr[1:-1].isfinite().all()


def test_explicit_times_are_taken_as_given_with_or_without_a_zero():
    schedule = dfw.build("schedule", "vp")
    for times in ([1, 0.3, 0.01], [1, 0.3, 0.01, 0]):
        assert dfw.build("grid", "explicit", times=times)(3, schedule).tolist() == [1, 0.3, 0.01, 0]


@pytest.mark.parametrize("times", [[], [0.0], [0.5, 0.5], [0.2, 0.4], [1.0, 0.0, 0.0]])
def test_explicit_times_that_do_not_decrease_are_refused_when_built(times):
    with pytest.raises(dfw.ConfigError, match=r"grid\.times"):
        dfw.build("grid", "explicit", times=times)


@pytest.mark.parametrize("times", [[1.2, 0.5], [0.5, -0.1]])
def test_explicit_times_outside_the_unit_interval_are_refused(times):
    with pytest.raises(dfw.ConfigError, match=r"grid\.times"):
        dfw.build("grid", "explicit", times=times)


@pytest.mark.parametrize(("name", "parameters"), [("explicit", {"times": [1, 0.5]}), ("respaced", {"spec": "10,20"})])
def test_another_number_of_times_than_steps_names_the_number_to_set(name, parameters):
    count = 2 if name == "explicit" else 30
    with pytest.raises(dfw.ConfigError, match=f"set sampler.steps={count}"):
        dfw.build("grid", name, **parameters)(50, dfw.build("schedule", "linear"))


def test_ranges_in_the_wrong_order_are_refused():
    with pytest.raises(dfw.ConfigError, match=r"grid\.sigma_max"):
        dfw.build("grid", "karras", sigma_min=3.0, sigma_max=2.0)
    with pytest.raises(dfw.ConfigError, match=r"grid\.log_snr_max"):
        dfw.build("grid", "log_snr", log_snr_min=3.0, log_snr_max=2.0)


def test_karras_is_even_in_the_root_of_sigma_over_alpha():
    schedule = dfw.build("schedule", "vp")
    level = schedule(dfw.build("grid", "karras", rho=3.0)(40, schedule))
    roots = torch.exp(-level.log_snr[1:-1] / 6)
    torch.testing.assert_close(roots.diff(), roots.diff()[:1].expand(38), rtol=1e-8, atol=0)
    assert level.log_snr[-2].item() == pytest.approx(-2 * math.log(0.002), rel=1e-9)
    assert level.log_snr[1].item() < -2 * math.log(70)
