"""Variances of the reverse step against DDPM's formulas in 50 digits."""

from __future__ import annotations

import mpmath
import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.process.variance import log_variances

mpmath.mp.dps = 50


def linear_betas(steps):
    """Ho et al. 2020, section 4, in the scaling of Nichol & Dhariwal 2021 for other numbers of steps."""
    first, last = mpmath.mpf("0.1") / steps, mpmath.mpf(20) / steps
    return [first + (last - first) * k / (steps - 1) for k in range(steps)]


def cosine_betas(steps):
    """Nichol & Dhariwal 2021, equation 17."""

    def f(k):
        return mpmath.cos((mpmath.mpf(k) / steps + mpmath.mpf("0.008")) / mpmath.mpf("1.008") * mpmath.pi / 2) ** 2

    return [min(1 - f(k + 1) / f(k), mpmath.mpf("0.999")) for k in range(steps)]


@pytest.mark.parametrize("steps", [1000, 4000])
@pytest.mark.parametrize(("name", "betas"), [("linear", linear_betas), ("cosine", cosine_betas)])
def test_posterior_and_clipped_log_variances_of_every_row(name, betas, steps):
    """Ho et al. 2020, equations 6 and 7, from betas; the first row's variance is the second's, as in their code."""
    alpha_bar, before, expected = mpmath.mpf(1), mpmath.mpf(1), []
    for beta in betas(steps):
        before, alpha_bar = alpha_bar, alpha_bar * (1 - beta)
        variance = beta * (1 - before) / (1 - alpha_bar)
        c_x0 = mpmath.sqrt(before) * beta / (1 - alpha_bar)
        c_xt = mpmath.sqrt(1 - beta) * (1 - before) / (1 - alpha_bar)
        expected.append([c_x0, c_xt, variance, mpmath.log(beta)])
    expected = torch.tensor([[float(value) for value in row] for row in expected], dtype=torch.float64).T
    log_small = torch.cat([expected[2, 1:2], expected[2, 1:]]).log()

    rows = dfw.build("schedule", name, num_steps=steps).table
    transition = dfw.posterior(rows[1:], rows[:-1])
    down = torch.arange(steps, -1, -1)
    found = log_variances(rows[down])
    close = {"rtol": 1e-9, "atol": 1e-13}
    torch.testing.assert_close(transition.c_x0, expected[0], **close)
    torch.testing.assert_close(transition.c_xt, expected[1], **close)
    torch.testing.assert_close(transition.var_small, expected[2], **close)
    torch.testing.assert_close(found.small.flip(0), log_small, rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(found.large.flip(0), expected[3], rtol=1e-10, atol=1e-9)
    assert found.to_data.tolist() == [False] * (steps - 1) + [True]


def chain(schedule, steps, grid="respaced"):
    return log_variances(schedule(dfw.build("grid", grid)(steps, schedule)))


@pytest.mark.parametrize("steps", [1000, 50, 1])
def test_the_learned_range_reaches_from_the_small_to_the_large_variance_of_the_step_taken(steps):
    """Nichol & Dhariwal 2021, equation 15, on respaced steps: the ends are those of the longer steps."""
    schedule = dfw.build("schedule", "cosine")
    variances = chain(schedule, steps)
    learned = dfw.build("variance", "learned_range")
    ones = torch.ones(steps, dtype=torch.float64)
    torch.testing.assert_close(learned.log_variance(variances, -ones), variances.small)
    torch.testing.assert_close(learned.log_variance(variances, ones), variances.large)
    middle = (variances.small + variances.large) / 2
    torch.testing.assert_close(learned.log_variance(variances, 0 * ones), middle)
    torch.testing.assert_close(
        dfw.build("variance", "learned").log_variance(variances, 0.5 * ones), variances.large + 0.5
    )


def test_the_fixed_variances_agree_on_the_step_to_clean_data():
    """Both take the small variance of the step before: Ho et al.'s code, "better decoder log likelihood"."""
    variances = chain(dfw.build("schedule", "linear"), 1000)
    small, large = (dfw.build("variance", name).log_variance(variances, None) for name in ("small", "large"))
    assert small[-1] == large[-1] == small[-2]
    assert (small[:-1] < large[:-1]).all()


@pytest.mark.parametrize("name", ["learned", "learned_range"])
def test_a_learned_variance_of_a_model_without_one_is_refused(name):
    sampler = dfw.build("sampler", "ddpm", steps=3, variance=dfw.build("variance", name))
    denoiser = dfw.oracles.Gaussian(torch.zeros(2), 0.5).denoiser(dfw.build("schedule", "cosine"))
    with pytest.raises(dfw.ConfigError, match=r"variance.*variance=small.*objective=hybrid"):
        sampler(denoiser, torch.zeros(1, 2))
