"""Pairs of schedule and parameterization that have no meaning are found by arithmetic."""

from __future__ import annotations

import pytest
import torch
from examples import on_schedule

import diffusion_fw as dfw
from diffusion_fw import registry
from diffusion_fw.process.compatibility import check_parameterization, fitting_parameterizations

FULL = torch.tensor([1.0, 0.5, 0.1, 0.0], dtype=torch.float64)


@pytest.mark.parametrize("name", ["epsilon", "score"])
@pytest.mark.parametrize(
    ("path", "knobs"),
    [("linear", {"zero_terminal_snr": True}), ("flow", {}), ("cosine_continuous", {})],
)
def test_noise_alone_does_not_determine_data_at_zero_terminal_snr(name, path, knobs):
    schedule = dfw.build("schedule", path, **knobs)
    with pytest.raises(dfw.ConfigError) as caught:
        check_parameterization(schedule, dfw.build("parameterization", name), FULL)
    message = str(caught.value)
    assert f"parameterization={name} " in message
    assert f"schedule={path} " in message
    assert "parameterization=edm|flow|v|x0" in message


@pytest.mark.parametrize("name", ["epsilon", "score"])
def test_a_grid_that_starts_below_pure_noise_fits(name):
    schedule = dfw.build("schedule", "linear", zero_terminal_snr=True)
    check_parameterization(schedule, dfw.build("parameterization", name), FULL[1:])


@pytest.mark.parametrize("name", dfw.names("parameterization"))
@pytest.mark.parametrize(
    "path",
    ["linear", "scaled_linear", "cosine", "sigmoid", "ncsn", "vp", "sub_vp", "ve", "edm", "laplace", "linear_log_snr"],
)
def test_every_parameterization_fits_a_schedule_that_keeps_some_signal(name, path):
    schedule = dfw.build("schedule", path)
    times = schedule.snap(torch.linspace(1, schedule.t_min, 20, dtype=torch.float64))
    check_parameterization(schedule, on_schedule("parameterization", name, schedule), times)


def test_the_fitting_parameterizations_are_those_that_pass():
    schedule = dfw.build("schedule", "flow")
    fitting = fitting_parameterizations(schedule(FULL[:-1]))
    for name in dfw.names("parameterization"):
        if "schedule" in registry.entry("parameterization", name).runtime:
            continue  # it cannot be tried by its name alone
        parameterization = dfw.build("parameterization", name)
        if name in fitting:
            check_parameterization(schedule, parameterization, FULL)
        else:
            with pytest.raises(dfw.ConfigError):
                check_parameterization(schedule, parameterization, FULL)
