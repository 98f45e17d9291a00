"""Continuous schedules against their formulas, and the tables between their rows."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.registry import ConfigError

T = torch.tensor([1e-4, 0.02, 0.3, 0.5, 0.81, 0.999], dtype=torch.float64)


def test_ve_is_geometric_and_jumps_to_clean_data_at_zero():
    ve = dfw.build("schedule", "ve", sigma_min=0.02, sigma_max=100.0)
    torch.testing.assert_close(ve(T).sigma, 0.02 * 5000**T, rtol=1e-12, atol=0)
    assert ve(torch.tensor(1e-300, dtype=torch.float64)).sigma == pytest.approx(0.02)
    assert ve(torch.tensor(0.0)).sigma == 0


def test_less_noise_than_sigma_min_is_at_the_smallest_noisy_time_of_ve():
    ve = dfw.build("schedule", "ve")
    assert ve.time(torch.tensor(-2 * math.log(0.001))) == ve.t_min


@pytest.mark.parametrize("name", ["ve", "ncsn"])
def test_sigma_max_is_taken_from_the_data_on_request(name):
    schedule = dfw.build("schedule", name, sigma_max="auto", data_diameter=7.5)
    assert schedule(torch.tensor(1.0)).sigma.item() == pytest.approx(7.5)
    with pytest.raises(dfw.ConfigError, match=r"schedule\.sigma_max"):
        dfw.build("schedule", name, sigma_max="auto")


@pytest.mark.parametrize("name", ["ve", "ncsn", "edm"])
def test_sigmas_in_the_wrong_order_are_refused(name):
    with pytest.raises(dfw.ConfigError, match=r"schedule\.sigma_max.*must be above schedule\.sigma_min"):
        dfw.build("schedule", name, sigma_min=3.0, sigma_max=2.0)


def test_sub_vp_has_the_signal_of_vp_and_the_square_of_its_noise():
    vp, sub_vp = dfw.build("schedule", "vp")(T), dfw.build("schedule", "sub_vp")(T)
    torch.testing.assert_close(sub_vp.alpha, vp.alpha, rtol=1e-14, atol=0)
    torch.testing.assert_close(sub_vp.sigma, vp.sigma.square(), rtol=1e-14, atol=0)


def test_edm_time_is_sigma():
    edm = dfw.build("schedule", "edm")
    torch.testing.assert_close(edm(T).sigma, 80 * T, rtol=1e-14, atol=0)
    assert edm(torch.tensor(edm.t_min, dtype=torch.float64)).sigma.item() == pytest.approx(0.002, rel=1e-12)


def test_flow_is_the_straight_line_with_pure_noise_at_its_end():
    level = dfw.build("schedule", "flow")(T)
    torch.testing.assert_close(level.alpha, 1 - T, rtol=1e-13, atol=0)
    torch.testing.assert_close(level.sigma, T, rtol=1e-13, atol=0)
    end = dfw.build("schedule", "flow")(torch.tensor(1.0))
    assert (end.alpha, end.sigma, end.log_snr) == (0, 1, -math.inf)


def test_shift_of_the_straight_line_is_sd3s_change_of_time():
    shifted = dfw.build("schedule", "flow", shift=3.0)
    torch.testing.assert_close(shifted(T).sigma, 3 * T / (1 + 2 * T), rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", ["flow", "cosine_continuous", "laplace"])
def test_shift_moves_log_snr_by_minus_twice_its_logarithm(name):
    plain, shifted = dfw.build("schedule", name), dfw.build("schedule", name, shift=2.5)
    torch.testing.assert_close(shifted(T).log_snr, plain(T).log_snr - 2 * math.log(2.5), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(shifted.time(shifted(T).log_snr), T, rtol=1e-10, atol=0)
    assert shifted(torch.tensor(0.0)).sigma == 0


def _sine(x: Decimal) -> Decimal:
    term, total, k = x, x, 1
    while abs(term) > Decimal(10) ** -48:
        term *= -x * x / ((k + 1) * (k + 2))
        total, k = total + term, k + 2
    return total


def test_the_sigma_of_the_continuous_cosine_is_exact_where_one_minus_alpha_squared_cancels():
    pi, s, t = Decimal("3.14159265358979323846264338327950288419716939937511"), Decimal("0.008"), Decimal("1e-4")
    with localcontext() as context:
        context.prec = 50
        start, now = (1 - _sine((time + s) / (1 + s) * pi / 2) ** 2 for time in (Decimal(0), t))
        exact = (1 - now / start).sqrt()
    level = dfw.build("schedule", "cosine_continuous")(torch.tensor(1e-4, dtype=torch.float64))
    assert level.sigma.item() == pytest.approx(float(exact), rel=1e-13)


def test_the_cosine_without_offset_is_a_tangent_in_log_snr():
    level = dfw.build("schedule", "cosine_continuous", s=0.0)(T)
    torch.testing.assert_close(level.log_snr, -2 * torch.tan(math.pi * T / 2).log(), rtol=1e-11, atol=1e-12)


def test_uniform_times_of_laplace_have_a_laplace_distribution_of_log_snr():
    schedule = dfw.build("schedule", "laplace", mu=0.7, b=0.9)
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    log_snr = schedule(u).log_snr
    assert log_snr.mean().item() == pytest.approx(0.7, abs=1e-3)
    assert (log_snr - 0.7).abs().mean().item() == pytest.approx(0.9, abs=1e-3)
    below = (log_snr < -1).double().mean().item()
    assert below == pytest.approx(math.exp((-1 - 0.7) / 0.9) / 2, abs=1e-4)


@pytest.mark.parametrize("b", [0.5, 2.0, 5.0])
def test_laplace_ends_at_its_smallest_log_snr(b):
    schedule = dfw.build("schedule", "laplace", b=b, log_snr_min=-12.0)
    assert schedule(torch.tensor(1.0)).log_snr.item() == pytest.approx(-12, rel=1e-12)
    torch.testing.assert_close(schedule.time(schedule(T).log_snr), T, rtol=1e-10, atol=0)


# Between the rows of a table.


def test_log_snr_is_linear_between_the_rows_of_a_table_and_time_inverts_it():
    table = dfw.build("schedule", "cosine", num_steps=10)
    t = torch.tensor([0.1, 0.13, 0.5, 0.77, 0.99, 1.0], dtype=torch.float64)
    rows = table.table.log_snr
    assert table(t).log_snr[1] == pytest.approx((0.7 * rows[1] + 0.3 * rows[2]).item())
    torch.testing.assert_close(table.time(table(t).log_snr), t, rtol=1e-13, atol=0)


def test_a_mixture_of_rows_and_other_times_takes_the_rows_as_they_are():
    table = dfw.build("schedule", "cosine", num_steps=10)
    level = table(torch.tensor([0.0, 0.3, 0.35, 1.0], dtype=torch.float64))
    assert level.log_snr[[0, 1, 3]].tolist() == table.table.log_snr[[0, 3, 10]].tolist()
    assert level.sigma[0] == 0


@pytest.mark.parametrize("num_steps", [7, 1000, 4000])
def test_a_row_is_found_by_its_time_in_float32_too(num_steps):
    table = dfw.build("schedule", "cosine", num_steps=num_steps, zero_terminal_snr=True)
    level = table(table.table.t.float())
    assert torch.equal(level.log_snr, table.table.log_snr)
    assert torch.equal(level.sigma, table.table.sigma)


@pytest.mark.parametrize("t", [0.05, 0.0999])
def test_below_its_first_row_a_table_says_nothing(t):
    with pytest.raises(dfw.ConfigError, match=r"no time between 0 and 0\.1"):
        dfw.build("schedule", "cosine", num_steps=10)(torch.tensor([t]))


@pytest.mark.parametrize("t", [0.92, 0.97])
def test_between_the_last_rows_of_a_table_with_zero_terminal_snr_there_is_no_level(t):
    table = dfw.build("schedule", "cosine", num_steps=10, zero_terminal_snr=True)
    with pytest.raises(dfw.ConfigError, match="pure noise"):
        table(torch.tensor([0.5, t]))


def test_no_log_snr_leads_between_the_last_rows_of_a_table_with_zero_terminal_snr():
    table = dfw.build("schedule", "cosine", num_steps=10, zero_terminal_snr=True)
    last = table.table.log_snr[9].item()
    assert table.time(torch.tensor([last - 0.1, last - 50, -math.inf])).tolist() == [0.9, 0.9, 1.0]


def test_a_table_has_no_rates_and_names_a_schedule_that_has():
    with pytest.raises(dfw.ConfigError, match="schedule=vp"):
        dfw.build("schedule", "linear").rates(torch.tensor([0.5]))


def test_the_elbo_weights_of_a_fine_table_approach_those_of_its_continuous_limit():
    """score-SDE's VP is the limit of DDPM's linear betas."""
    t = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
    table, limit = dfw.build("schedule", "linear", num_steps=20_000), dfw.build("schedule", "vp")
    torch.testing.assert_close(table.elbo_weight(t), limit.elbo_weight(t), rtol=2e-3, atol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("sigma_min", [0.0, 1e-5, 0.1])
def test_flow_is_the_optimal_transport_path_of_lipman_et_al_in_reversed_time(sigma_min, shift):
    """Their psi_s(x) = (1 - (1 - sigma_min) s) x + s x_1 at s = 1 - t, and its velocity x_1 - (1 - sigma_min) x."""
    schedule = dfw.build("schedule", "flow", sigma_min=sigma_min, shift=shift)
    t = torch.tensor([1e-6, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    level = schedule(t)
    s = 1 - shift * t / (1 + (shift - 1) * t)
    torch.testing.assert_close(level.alpha, s, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(level.sigma, 1 - (1 - sigma_min) * s, rtol=1e-9, atol=0)
    torch.testing.assert_close(level.log_snr, 2 * (level.alpha / level.sigma).log(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(schedule.time(level.log_snr), t, rtol=1e-9, atol=0)
    clean = schedule(torch.tensor(0.0))
    assert (clean.alpha, clean.sigma, clean.log_snr) == (1, 0, torch.inf)
    if sigma_min:
        # Nothing of the path lies between clean data and sigma_min.
        assert schedule.time(torch.tensor(-2.0 * math.log(sigma_min / 2))) == schedule.t_min
    x0, eps = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    velocity = dfw.build("parameterization", "flow", sigma_min=sigma_min)
    torch.testing.assert_close(velocity.target(level, x0, eps), (1 - sigma_min) * eps - x0)
    torch.testing.assert_close(velocity.determinant(level), torch.ones_like(t))


def test_the_linear_log_snr_is_a_line_between_its_ends_and_clean_at_zero():
    schedule = dfw.build("schedule", "linear_log_snr", log_snr_max=12.0, log_snr_min=-4.0)
    level = schedule(T)
    torch.testing.assert_close(level.log_snr, 12 - 16 * T, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(level.alpha.square() + level.sigma.square(), torch.ones_like(T), rtol=1e-13, atol=0)
    torch.testing.assert_close(schedule.time(level.log_snr), T, rtol=1e-12, atol=1e-12)
    clean = schedule(torch.tensor(0.0))
    assert (clean.alpha, clean.sigma) == (1, 0)
    with pytest.raises(ConfigError, match=r"log_snr_min=3 must be below schedule\.log_snr_max=2"):
        dfw.build("schedule", "linear_log_snr", log_snr_max=2.0, log_snr_min=3.0)


def test_on_the_linear_log_snr_the_loss_of_eps_is_the_bound_of_a_gaussian():
    """Kingma et al. 2021, equation 17: 1/2 E |eps - eps_hat|^2 over log_snr is the KL of q and p, up to its ends."""
    schedule = dfw.build("schedule", "linear_log_snr", log_snr_max=14.0, log_snr_min=-14.0)
    level = schedule((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)
    # For data N(0, 1) the best error of eps is alpha^2, and the entropy is that of a Gaussian with variance 1.
    integral = 28 * level.alpha.square().mean() / 2
    # -log p at the first noisy level: log-SNR 14 is a Gaussian of variance e^-14 around the data.
    reconstruction = 0.5 * (1 + math.log(2 * math.pi) - 14)
    entropy = 0.5 * (1 + math.log(2 * math.pi))
    assert float(integral + reconstruction) == pytest.approx(entropy, abs=1e-4)
