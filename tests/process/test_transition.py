"""The posterior against DDPM's own formulas, published figures and conditioning of Gaussians."""

from __future__ import annotations

import pytest
import torch

import diffusion_fw as dfw


@pytest.mark.parametrize("name", ["linear", "cosine", "scaled_linear"])
def test_neighbouring_rows_give_ddpms_posterior(name):
    """Ho et al. 2020, equations 6 and 7, written with betas."""
    schedule = dfw.build("schedule", name)
    rows = schedule.table
    beta = schedule.betas()
    alpha_bar = (1 - beta).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    found = dfw.posterior(rows[1:], rows[:-1])
    assert torch.allclose(found.var_small, beta * (1 - before) / (1 - alpha_bar), rtol=1e-9, atol=1e-16)
    assert torch.allclose(found.var_large, beta, rtol=1e-9)
    assert torch.allclose(found.c_x0, before.sqrt() * beta / (1 - alpha_bar), rtol=1e-9)
    assert torch.allclose(found.c_xt, (1 - beta).sqrt() * (1 - before) / (1 - alpha_bar), rtol=1e-9, atol=1e-16)


@pytest.mark.parametrize(
    ("index", "variance", "c_x0", "c_xt"),
    [(500, 0.010051335778909593, 0.003058057075629619, 0.9941043507567258), (999, 0.01999998352656061, None, None)],
)
def test_figures_of_the_original_authors_code(index, variance, c_x0, c_xt):
    """OpenAI's GaussianDiffusion on the linear table of 1000, run in float64; its index i is our row i + 1."""
    rows = dfw.build("schedule", "linear").table
    found = dfw.posterior(rows[index + 1], rows[index])
    assert found.var_small.item() == pytest.approx(variance, rel=1e-12)
    if c_x0 is not None:
        assert found.c_x0.item() == pytest.approx(c_x0, rel=1e-12)
        assert found.c_xt.item() == pytest.approx(c_xt, rel=1e-12)


@pytest.mark.parametrize("name", ["vp", "ve", "flow", "cosine", "edm", "sub_vp"])
def test_any_two_levels_condition_a_gaussian(name):
    """q(x_s | x_t, x_0) from the joint covariance of (x_s, x_t) given x_0, by the textbook formula."""
    schedule = dfw.build("schedule", name)
    t, s = (schedule.snap(torch.tensor(value, dtype=torch.float64)) for value in (0.8, 0.3))
    late, early = schedule(t), schedule(s)
    ratio = late.alpha / early.alpha
    # x_t = ratio x_s + noise, so Cov(x_s, x_t | x_0) = ratio sigma_s^2.
    gain = ratio * early.sigma**2 / late.sigma**2
    found = dfw.posterior(late, early)
    assert torch.allclose(found.c_xt, gain, rtol=1e-10)
    assert torch.allclose(found.c_x0, early.alpha - gain * late.alpha, rtol=1e-8)
    assert torch.allclose(found.var_small, early.sigma**2 - gain * ratio * early.sigma**2, rtol=1e-8)
    assert torch.allclose(found.var_large, late.sigma**2 - ratio**2 * early.sigma**2, rtol=1e-8)


def test_the_last_step_leads_to_clean_data():
    schedule = dfw.build("schedule", "vp")
    found = dfw.posterior(*(schedule(torch.tensor(t, dtype=torch.float64)) for t in (0.1, 0.0)))
    assert [found.c_x0.item(), found.c_xt.item(), found.var_small.item()] == [1.0, 0.0, 0.0]
