"""Parameterizations against their papers; the laws that all of them keep are in checking/parameterization_laws.py."""

from __future__ import annotations

import math

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.process.level import NoiseLevel

PATHS = ["cosine", "vp", "sub_vp", "ve", "edm", "flow", "ncsn"]


def levels(path: str) -> NoiseLevel:
    """0, the smallest noisy time, others and 1."""
    schedule = dfw.build("schedule", path)
    t = schedule.snap(torch.linspace(0, 1, 12, dtype=torch.float64))
    t[1] = schedule.t_min
    return schedule(t)


@pytest.mark.parametrize("name", ["v", "flow", "edm"])
def test_no_level_is_singular_for_a_parameterization_that_mixes_data_and_noise(name):
    parameterization = dfw.build("parameterization", name)
    for path in PATHS:
        assert parameterization.solvable(levels(path)).all(), path


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 3.0])
def test_edm_gives_the_network_unit_variance_in_and_asks_for_unit_variance_out(path, sigma_data):
    """Karras et al. 2022, appendix B.6: the two requirements that determine c_in and c_out."""
    parameterization = dfw.build("parameterization", "edm", sigma_data=sigma_data)
    level = levels(path)
    a, b = parameterization.coefficients(level)
    c_in, _ = parameterization.input(level)
    variance_of_input = c_in.square() * (level.alpha.square() * sigma_data**2 + level.sigma.square())
    torch.testing.assert_close(variance_of_input, torch.ones_like(a), rtol=1e-12, atol=0)
    torch.testing.assert_close(a.square() * sigma_data**2 + b.square(), torch.ones_like(a), rtol=1e-12, atol=0)


def test_edm_is_the_papers_table_on_its_own_path():
    sigma, sigma_data = torch.tensor([0.002, 0.3, 0.5, 7.0, 80.0], dtype=torch.float64), 0.5
    level = dfw.build("schedule", "edm")(sigma / 80)
    parameterization = dfw.build("parameterization", "edm", sigma_data=sigma_data)
    total = sigma.square() + sigma_data**2
    c_skip, c_out, c_in = sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt()
    a, b = parameterization.coefficients(level)
    torch.testing.assert_close(a, (1 - c_skip) / c_out, rtol=1e-9, atol=0)
    torch.testing.assert_close(b, -c_skip * sigma / c_out, rtol=1e-12, atol=0)
    found_c_in, label = parameterization.input(level)
    torch.testing.assert_close(found_c_in, c_in, rtol=1e-12, atol=0)
    torch.testing.assert_close(label, sigma.log() / 4, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("row", "c_x0", "c_xt"), [(500, 0.003058057075629619, 0.9941043507567258)])
def test_the_posterior_mean_has_ddpms_coefficients(row, c_x0, c_xt):
    """As guided-diffusion has them for T = 1000, whose index is that of the row, from 0."""
    schedule = dfw.build("schedule", "linear")
    level = schedule(torch.tensor((row + 1) / 1000).double())
    a, b = dfw.build("parameterization", "posterior_mean", schedule=schedule).coefficients(level)
    assert (b / level.sigma).item() == pytest.approx(c_xt, rel=1e-9)
    assert (a - b / level.sigma * level.alpha).item() == pytest.approx(c_x0, rel=1e-6)


@pytest.mark.parametrize("path", ["linear", "ncsn", "vp", "flow"])
def test_the_posterior_mean_is_that_of_a_step_to_the_level_before(path):
    schedule = dfw.build("schedule", path)
    rows = 232 if path == "ncsn" else 1000
    t = torch.tensor([0, 1, 2, 7, rows // 2, rows - 1]).double() / rows
    x0, eps = torch.randn(2, len(t), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    component, level = dfw.build("parameterization", "posterior_mean", schedule=schedule), schedule(t)
    found = component.target(level, x0, eps)
    assert torch.equal(found[:2], x0[:2])  # clean data is certain, whatever x_t
    step = dfw.posterior(level[2:], schedule(t[2:] - 1 / rows))
    x = dfw.noised(level[2:], x0[2:], eps[2:])
    expected = step.c_x0[:, None] * x0[2:] + step.c_xt[:, None] * x
    torch.testing.assert_close(found[2:], expected)
    torch.testing.assert_close(component.determinant(level[2:]), -level.sigma[2:] * step.c_x0, rtol=1e-8, atol=0)


def test_between_two_rows_the_posterior_mean_keeps_away_from_a_step_of_no_length():
    schedule = dfw.build("schedule", "linear")
    component = dfw.build("parameterization", "posterior_mean", schedule=schedule)
    t = torch.linspace(0.1, 1, 5000, dtype=torch.float64)
    amplification = component.amplification(schedule(t)) * schedule(t).alpha
    rows = component.amplification(schedule.table[100:]) * schedule.table.alpha[100:]
    assert amplification.max() < 2.1 * rows.max()


def test_edm_with_unit_data_is_minus_v_on_a_variance_preserving_path():
    level = levels("vp")
    edm = dfw.build("parameterization", "edm", sigma_data=1.0).coefficients(level)
    v = dfw.build("parameterization", "v").coefficients(level)
    for mine, theirs in zip(edm, v, strict=True):
        torch.testing.assert_close(mine, -theirs, rtol=1e-12, atol=1e-15)


def test_edms_sigma_data_is_taken_from_the_data_on_request():
    assert dfw.build("parameterization", "edm", sigma_data="auto", data_std=0.3).data_deviation == 0.3
    with pytest.raises(dfw.ConfigError, match="sigma_data=auto"):
        dfw.build("parameterization", "edm", sigma_data="auto")


def test_the_score_is_the_gradient_of_the_log_density_of_the_noise():
    level = dfw.build("schedule", "ve")(torch.tensor([0.4], dtype=torch.float64))
    x0, eps = torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([[1.2]], dtype=torch.float64)
    x = (level.alpha * x0 + level.sigma * eps).requires_grad_()
    density = torch.distributions.Normal(level.alpha * x0, level.sigma).log_prob(x)
    (gradient,) = torch.autograd.grad(density.sum(), x)
    torch.testing.assert_close(dfw.build("parameterization", "score").target(level, x0, eps), gradient)


@pytest.mark.parametrize("path", ["ve", "cosine", "flow"])
def test_a_score_network_divided_by_sigma_regresses_minus_the_noise(path):
    level = dfw.build("schedule", path)(torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64))
    x0, eps = torch.full((3, 2), 0.3).double(), torch.full((3, 2), -1.2).double()
    plain, divided = (dfw.build("parameterization", "score", scale_by_sigma=flag) for flag in (False, True))
    score = plain.target(level, x0, eps)
    torch.testing.assert_close(divided.target(level, x0, eps), -eps)
    torch.testing.assert_close(divided.target(level, x0, eps) / level.sigma[:, None], score)


def test_the_flow_target_is_the_velocity_of_the_straight_path():
    flow = dfw.build("schedule", "flow")
    x0, eps, h = torch.tensor([[0.3]]).double(), torch.tensor([[1.2]]).double(), 1e-6
    before, after = (flow(torch.tensor([time], dtype=torch.float64)) for time in (0.4 - h, 0.4 + h))
    velocity = ((after.alpha - before.alpha) * x0 + (after.sigma - before.sigma) * eps) / (2 * h)
    target = dfw.build("parameterization", "flow").target(flow(torch.tensor([0.4], dtype=torch.float64)), x0, eps)
    torch.testing.assert_close(target, velocity, rtol=1e-8, atol=0)


def test_a_score_network_takes_x_as_it_is_or_scaled_to_unit_variance():
    level = levels("ve")
    scaled, _ = dfw.build("parameterization", "score", scale_input=True).input(level)
    plain, _ = dfw.build("parameterization", "score").input(level)
    torch.testing.assert_close(scaled, 1 / (1 + level.sigma.square()).sqrt())
    assert (plain == 1).all()
    assert math.isclose(scaled[-1].item(), 1 / 100, rel_tol=1e-3)


def test_improved_ddpms_label_of_index_i_is_1000_i_over_the_number_of_steps():
    """rescale_timesteps of Nichol & Dhariwal 2021: index 0 has the label 0, whatever T is."""
    schedule = dfw.build("schedule", "cosine", num_steps=4000)
    level = schedule(torch.tensor([1, 2, 4000], dtype=torch.float64) / 4000)
    _, label = dfw.build("parameterization", "epsilon", label_shift=-0.25).input(level)
    torch.testing.assert_close(label, torch.tensor([0.0, 0.25, 999.75], dtype=torch.float64))
