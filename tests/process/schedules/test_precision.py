"""Levels and posteriors against their definitions evaluated with 40 digits."""

from __future__ import annotations

import mpmath
import pytest
import torch

import diffusion_fw as dfw

T = 1000


@pytest.fixture(autouse=True)
def forty_digits():
    with mpmath.workdps(40):
        yield


def linear():
    """Ho et al. 2020, section 4."""
    first, last = mpmath.mpf("1e-4"), mpmath.mpf("0.02")
    return [first + (last - first) * k / (T - 1) for k in range(T)]


def scaled_linear():
    """The setting of Stable Diffusion, Rombach et al. 2022."""
    first, last = mpmath.sqrt("0.00085"), mpmath.sqrt("0.012")
    return [(first + (last - first) * k / (T - 1)) ** 2 for k in range(T)]


def cosine():
    """Nichol & Dhariwal 2021, equation 17."""
    s = mpmath.mpf("0.008")
    f = [mpmath.cos((mpmath.mpf(k) / T + s) / (1 + s) * mpmath.pi / 2) ** 2 for k in range(T + 1)]
    return [min(1 - f[k + 1] / f[k], mpmath.mpf("0.999")) for k in range(T)]


def relative(found, exact):
    return float(abs(mpmath.mpf(float(found)) / exact - 1))


# The cosine's betas are a difference that cancels by their definition, which costs four digits.
@pytest.mark.parametrize(("betas", "tolerance"), [(linear, 2e-14), (scaled_linear, 2e-14), (cosine, 1e-11)])
def test_every_row_of_a_table_is_exact(betas, tolerance):
    table = dfw.build("schedule", betas.__name__).table
    alpha_bar = mpmath.mpf(1)
    for k, beta in enumerate(betas(), start=1):
        alpha_bar *= 1 - beta
        assert relative(table.alpha[k], mpmath.sqrt(alpha_bar)) < tolerance
        assert relative(table.sigma[k], mpmath.sqrt(1 - alpha_bar)) < tolerance
        exact = mpmath.log(alpha_bar) - mpmath.log(1 - alpha_bar)
        assert abs(float(table.log_snr[k]) - exact) < tolerance * max(1, abs(exact))


def vp(t):
    """(alpha, sigma) of Song et al. 2021, equation 33."""
    t = mpmath.mpf(t)
    log_alpha = -(t**2) * mpmath.mpf("19.9") / 4 - t * mpmath.mpf("0.1") / 2
    return mpmath.exp(log_alpha), mpmath.sqrt(1 - mpmath.exp(2 * log_alpha))


@pytest.mark.parametrize("t", [1e-9, 1e-5, 1e-3, 0.1, 0.5, 1.0])
def test_vp_is_exact_where_one_minus_alpha_squared_cancels(t):
    level = dfw.build("schedule", "vp")(torch.tensor(t, dtype=torch.float64))
    alpha, sigma = vp(t)
    assert relative(level.alpha, alpha) < 2e-15
    assert relative(level.sigma, sigma) < 2e-15
    assert relative(level.log_snr, 2 * mpmath.log(alpha / sigma)) < 2e-15


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.999), (0.5, 0.1), (0.1, 0.0999999), (2e-5, 1e-5), (1e-3, 1e-7)])
def test_the_posterior_conditions_the_joint_gaussian_of_two_times(t, s):
    """(x_s, x_t) given x_0 has Cov[x_s, x_t] = sigma_s^2 alpha_t / alpha_s."""
    schedule = dfw.build("schedule", "vp")
    found = dfw.posterior(*(schedule(torch.tensor(time, dtype=torch.float64)) for time in (t, s)))
    (alpha_t, sigma_t), (alpha_s, sigma_s) = vp(t), vp(s)
    covariance = sigma_s**2 * alpha_t / alpha_s
    gain = covariance / sigma_t**2
    # The times' own rounding, t (1 + 1e-16), moves what is left of their difference by 1e-16 t / (t - s).
    tolerance = 1e-14 * t / (t - s)
    assert relative(found.c_xt, gain) < 1e-14
    assert relative(found.c_x0, alpha_s - gain * alpha_t) < tolerance
    assert relative(found.var_small, sigma_s**2 - gain * covariance) < tolerance
    assert relative(found.var_large, sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2) < tolerance
