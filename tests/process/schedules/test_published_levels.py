"""Tables and paths against figures of their authors' code: guided-diffusion, ncsnv2, score_sde and others."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import pytest
import torch

import diffusion_fw as dfw


def alpha_bar(name: str, index: int, **knobs) -> float:
    """The squared alpha of DDPM's 0-based index."""
    schedule: Any = dfw.build("schedule", name, **knobs)
    return schedule.table.alpha[index + 1].square().item()


def test_the_sigmoid_table_is_that_of_denoising_diffusion_pytorch_but_for_its_float32_ends():
    # There sigmoid(start) and sigmoid(end) are float32, which moves the last row by 2.6e-5 of its value.
    assert alpha_bar("sigmoid", 0) == pytest.approx(0.999699720803, rel=1e-11)
    assert alpha_bar("sigmoid", 499) == pytest.approx(0.500000004, rel=1e-8)
    assert alpha_bar("sigmoid", 499) == pytest.approx(0.5, rel=1e-14)
    assert alpha_bar("sigmoid", 999) == pytest.approx(3.002869868e-07, rel=3e-5)


def test_zero_terminal_snr_rescales_stable_diffusions_table_as_in_algorithm_1_of_lin_et_al():
    table = dfw.build("schedule", "scaled_linear", zero_terminal_snr=True).table
    assert table.alpha[999].square().item() == pytest.approx(1.96788806e-07, rel=1e-7)
    assert table.alpha[1000] == 0
    assert table.sigma[1000] == 1
    assert table.alpha[1].square().item() == pytest.approx(0.99915, rel=1e-12)


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine", "sigmoid"])
def test_zero_terminal_snr_keeps_the_first_row_and_empties_the_last(name):
    plain = dfw.build("schedule", name).table
    rescaled = dfw.build("schedule", name, zero_terminal_snr=True).table
    assert rescaled.alpha[1].item() == pytest.approx(plain.alpha[1].item(), rel=1e-12)
    assert rescaled.log_snr[-1] == -math.inf
    assert not any(value.isnan().any() for value in rescaled.tensors())


def test_ncsn_of_2019_has_its_ten_sigmas():
    table = dfw.build("schedule", "ncsn", num_steps=10, sigma_min=0.01, sigma_max=1.0).table
    expected = [1, 0.59948425, 0.35938137, 0.21544347, 0.12915497, 0.07742637, 0.04641589, 0.02782559, 0.01668101, 0.01]
    torch.testing.assert_close(table.sigma[1:].flip(0), torch.tensor(expected).double(), rtol=1e-6, atol=0)
    assert (table.alpha == 1).all()


@pytest.mark.parametrize(
    ("sigma_max", "num_steps", "ratio"),
    [
        (50, 232, 1.0375591320),
        (90, 500, 1.0184139362),
        (140, 788, 1.0122045132),
        (190, 1086, 1.0091217149),
        (348, 2311, 1.0045372635),
    ],
)
def test_ncsnv2s_settings_have_their_common_ratio(sigma_max, num_steps, ratio):
    table = dfw.build("schedule", "ncsn", num_steps=num_steps, sigma_min=0.01, sigma_max=sigma_max).table
    ratios = table.sigma[2:] / table.sigma[1:-1]
    torch.testing.assert_close(ratios, torch.full_like(ratios, ratio), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("sigma_max", "side", "num_steps"),
    [(50, 32, 232), (90, 64, 500), (140, 96, 788), (190, 128, 1086), (348, 256, 2311)],
)
@pytest.mark.parametrize("scale", [1, 2], ids=["data in [0, 1]", "data in [-1, 1]"])
def test_technique_2_of_ncsnv2_gives_the_numbers_of_levels_of_its_configs(sigma_max, side, num_steps, scale):
    ends = {"sigma_min": 0.01 * scale, "sigma_max": sigma_max * scale}
    schedule = dfw.build("schedule", "ncsn", num_steps="auto", shape=(3, side, side), **ends)
    assert schedule.num_steps == num_steps
    assert schedule.table.sigma[-1].item() == pytest.approx(sigma_max * scale)


@pytest.mark.parametrize("overlap", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("size", [64, 3072])
def test_neighbouring_levels_overlap_as_stated(size, overlap):
    options = {"num_steps": "auto", "overlap": overlap, "shape": (size,), "sigma_min": 1e-9, "sigma_max": 1e9}
    sigma = dfw.build("schedule", "ncsn", **options).table.sigma
    gamma, phi = (sigma[2] / sigma[1]).item(), NormalDist().cdf
    middle = math.sqrt(2 * size) * (gamma - 1)
    assert phi(middle + 3 * gamma) - phi(middle - 3 * gamma) == pytest.approx(overlap, abs=0.01)


def test_technique_2_needs_a_shape_in_which_levels_can_be_apart():
    with pytest.raises(dfw.ConfigError, match="at least 5 values"):
        dfw.build("schedule", "ncsn", num_steps="auto", shape=(2,))
    with pytest.raises(dfw.ConfigError, match="no data is given"):
        dfw.build("schedule", "ncsn", num_steps="auto")
    with pytest.raises(dfw.ConfigError, match=r"raise schedule\.sigma_min"):
        dfw.build("schedule", "ncsn", num_steps="auto", overlap=0.9, shape=(3, 9000, 9000), sigma_min=1e-300)


def test_the_default_ncsn_begins_as_ncsnv2_on_cifar():
    # There data are in [0, 1], here in [-1, 1].
    sigma = dfw.build("schedule", "ncsn").table.sigma / 2
    assert sigma[-3:].flip(0).tolist() == pytest.approx([50, 48.19002451, 46.44556924], rel=1e-9)


def test_score_sdes_ve_with_a_thousand_sigmas_is_the_table_of_its_repository():
    sigma = dfw.build("schedule", "ncsn", num_steps=1000).table.sigma / 2
    assert (sigma[2] / sigma[1]).item() == pytest.approx(1.0085621664, rel=1e-9)
    assert sigma[500].item() == pytest.approx(0.7040989, rel=1e-6)


def test_sub_vp_at_half_time():
    level = dfw.build("schedule", "sub_vp")(torch.tensor(0.5))
    assert level.sigma.item() == pytest.approx(0.9209361875, rel=1e-9)
    assert level.alpha.item() == pytest.approx(0.2811828808, rel=1e-9)


def test_the_continuous_cosine_is_the_table_where_no_beta_is_clipped():
    table = dfw.build("schedule", "cosine").table
    level = dfw.build("schedule", "cosine_continuous")(table.t[:-1])
    torch.testing.assert_close(level.alpha, table.alpha[:-1], rtol=1e-9, atol=0)
    assert level.alpha[500].square().item() == pytest.approx(0.493843590441, rel=1e-11)


@pytest.mark.parametrize("rising", [0, 0.1, 0.5])
def test_warmup_has_the_betas_that_ddpm_was_compared_with(rising):
    alpha_bar = dfw.build("schedule", "warmup", rising=rising).table.alpha.square()
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    count = int(1000 * rising)
    steps = torch.linspace(1e-4, 0.02, max(count, 2), dtype=torch.float64)[:count]
    torch.testing.assert_close(betas[:count], steps, rtol=1e-9, atol=0)
    torch.testing.assert_close(betas[count:], torch.full_like(betas[count:], 0.02), rtol=1e-9, atol=0)


def test_even_loss_has_the_betas_of_sohl_dickstein_et_al():
    alpha_bar = dfw.build("schedule", "even_loss", num_steps=50).table.alpha.square()
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    torch.testing.assert_close(betas, 1 / torch.arange(50, 0, -1, dtype=torch.float64), rtol=1e-9, atol=0)
