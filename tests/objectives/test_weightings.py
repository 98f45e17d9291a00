"""Every weighting, through every parameterization and path."""

from __future__ import annotations

import pytest
import torch
from examples import on_schedule

import diffusion_fw as dfw
from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.objectives.weighting import output_weight
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule

NAMES = dfw.names("weighting")
PARAMETERIZATIONS = dfw.names("parameterization")


def levels(schedule: Schedule) -> NoiseLevel:
    return schedule(schedule.snap(torch.tensor([0.01, 0.2, 0.5, 0.9, 0.99], dtype=torch.float64)))


@pytest.mark.parametrize("path", ["linear", "vp", "edm", "flow", "ncsn"])
@pytest.mark.parametrize("name", NAMES)
def test_weights_are_positive_finite_float64_and_of_the_shape_of_t(name, path):
    schedule = dfw.build("schedule", path)
    level = levels(schedule)
    weight = on_schedule("weighting", name, schedule)(level)
    assert weight.dtype == torch.float64
    assert weight.shape == level.t.shape
    assert (weight > 0).all()
    assert weight.isfinite().all()


@pytest.mark.parametrize("path", ["linear", "edm", "flow"])
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"native"}))
def test_the_weighted_loss_of_one_estimate_is_the_same_whatever_the_network_regresses(name, path):
    schedule = dfw.build("schedule", path)
    level = levels(schedule)
    generator = torch.Generator().manual_seed(1)
    x0, eps, wrong = (torch.randn(5, 3, dtype=torch.float64, generator=generator) for _ in range(3))
    x = level.alpha[:, None] * x0 + level.sigma[:, None] * eps
    # One estimate of x_0 and the eps that belongs to it.
    wrong_eps = (x - level.alpha[:, None] * wrong) / level.sigma[:, None]
    losses = []
    for other in PARAMETERIZATIONS:
        parameterization = on_schedule("parameterization", other, schedule)
        error = parameterization.target(level, wrong, wrong_eps) - parameterization.target(level, x0, eps)
        losses.append(
            output_weight(on_schedule("weighting", name, schedule), parameterization, level) * error.square().mean(1)
        )
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-8, atol=0)


def test_snr_is_the_plain_loss_of_an_epsilon_network():
    schedule = dfw.build("schedule", "linear")
    weight = output_weight(
        on_schedule("weighting", "snr", schedule), dfw.build("parameterization", "epsilon"), levels(schedule)
    )
    torch.testing.assert_close(weight, torch.ones(5, dtype=torch.float64), rtol=1e-13, atol=0)


def test_snr_is_ncsns_weight_of_a_score_network():
    """lambda(sigma) = sigma^2, Song & Ermon 2019, section 4.2."""
    schedule = dfw.build("schedule", "ncsn")
    level = levels(schedule)
    weight = output_weight(on_schedule("weighting", "snr", schedule), dfw.build("parameterization", "score"), level)
    torch.testing.assert_close(weight, level.sigma.square(), rtol=1e-13, atol=0)


def test_min_snr_is_the_papers_weight_for_each_prediction():
    """min(snr, 5) for x_0, min(snr, 5) / snr for eps and / (snr + 1) for v: Hang et al. 2023, section 3.4."""
    schedule = dfw.build("schedule", "linear")
    level = levels(schedule)
    snr = (level.alpha / level.sigma).square()
    expected = {"x0": snr.clamp(max=5), "epsilon": (5 / snr).clamp(max=1), "v": snr.clamp(max=5) / (snr + 1)}
    for name, weight in expected.items():
        mine = output_weight(on_schedule("weighting", "min_snr", schedule), dfw.build("parameterization", name), level)
        torch.testing.assert_close(mine, weight, rtol=1e-11, atol=0)


def test_soft_min_snr_is_close_to_min_snr_far_from_its_corner_and_half_of_it_there():
    soft, hard = dfw.build("weighting", "soft_min_snr", gamma=5.0), dfw.build("weighting", "min_snr")
    log_snr = torch.tensor([-12.0, torch.log(torch.tensor(5.0)), 14.0], dtype=torch.float64)
    level = NoiseLevel(log_snr, log_snr, log_snr, log_snr)
    torch.testing.assert_close(soft(level) / hard(level), torch.tensor([1, 0.5, 1]).double(), rtol=1e-4, atol=0)


def test_soft_min_snr_of_gamma_four_is_one_over_the_variance_of_edms_noisy_data():
    schedule = dfw.build("schedule", "edm")
    level = levels(schedule)
    torch.testing.assert_close(
        on_schedule("weighting", "soft_min_snr", schedule)(level), 1 / (level.sigma.square() + 0.25), rtol=1e-12, atol=0
    )


def test_p2_divides_the_plain_loss_by_one_plus_snr():
    schedule = dfw.build("schedule", "linear")
    level = levels(schedule)
    weight = output_weight(on_schedule("weighting", "p2", schedule), dfw.build("parameterization", "epsilon"), level)
    torch.testing.assert_close(weight, 1 / (1 + (level.alpha / level.sigma).square()), rtol=1e-11, atol=0)


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
@pytest.mark.parametrize("path", ["edm", "vp", "flow"])
def test_edms_weight_of_its_preconditioned_network_is_one(path, sigma_data):
    """lambda(sigma) c_out(sigma)^2 = 1: Karras et al. 2022, appendix B.6."""
    schedule = dfw.build("schedule", path)
    parameterization = dfw.build("parameterization", "edm", sigma_data=sigma_data)
    weight = output_weight(
        on_schedule("weighting", "edm", schedule, sigma_data=sigma_data), parameterization, levels(schedule)
    )
    torch.testing.assert_close(weight, torch.ones(5, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("s", "expected"), [(0.5, 1.0), (1.0, 1.628322556)])
def test_edms_loss_of_the_exact_denoiser_of_a_gaussian_has_its_known_value(s, expected):
    """Data N(0, s^2), log sigma ~ N(-1.2, 1.2^2): figures computed with EDM's loss and the exact posterior mean."""
    schedule = dfw.build("schedule", "edm")
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    level = schedule(dfw.build("time_sampler", "log_normal").times(u, schedule))
    posterior_variance = s**2 * level.sigma.square() / (s**2 + level.sigma.square())
    loss = (on_schedule("weighting", "edm", schedule)(level) * posterior_variance).mean()
    assert loss.item() == pytest.approx(expected, rel=2e-4)


def test_sigmoid_is_half_at_its_bias_and_falls_with_the_signal():
    level = NoiseLevel(*[torch.tensor([-30.0, 2.0, 5.0], dtype=torch.float64)] * 4)
    weight = dfw.build("weighting", "sigmoid", bias=2.0)(level)
    assert weight.tolist() == pytest.approx([1, 0.5, 1 / (1 + torch.e**3)], rel=1e-6)
    assert dfw.build("weighting", "sigmoid").space == "eps"


@pytest.mark.parametrize("path", ["vp", "flow", "laplace", "linear_log_snr"])
def test_elbo_is_minus_half_the_slope_of_log_snr_for_an_epsilon_network(path):
    """Kingma et al. 2021, equation 17."""
    schedule = dfw.build("schedule", path)
    t, h = torch.tensor([0.1, 0.4, 0.8], dtype=torch.float64), 1e-6
    weight = output_weight(
        on_schedule("weighting", "elbo", schedule), dfw.build("parameterization", "epsilon"), schedule(t)
    )
    slope = (schedule(t + h).log_snr - schedule(t - h).log_snr) / (2 * h)
    torch.testing.assert_close(weight, -slope / 2, rtol=1e-7, atol=0)


def test_elbo_is_finite_at_zero_terminal_snr():
    schedule = dfw.build("schedule", "linear", zero_terminal_snr=True)
    level = schedule(torch.tensor([1.0, 0.001], dtype=torch.float64))
    for name in ("v", "x0", "edm", "flow"):
        weight = output_weight(on_schedule("weighting", "elbo", schedule), dfw.build("parameterization", name), level)
        assert weight.isfinite().all(), name


@pytest.mark.parametrize("weighting_name", NAMES)
def test_the_loss_of_a_network_that_knows_its_target_is_zero_under_every_weighting(weighting_name):
    schedule, parameterization = dfw.build("schedule", "vp"), dfw.build("parameterization", "v")
    level = levels(schedule)
    generator = torch.Generator().manual_seed(2)
    x0, eps = (torch.randn(5, 3, generator=generator) for _ in range(2))

    class Knows(torch.nn.Module):
        def __init__(self, error: float) -> None:
            super().__init__()
            self.error = error

        def forward(self, x, label, cond):
            return parameterization.target(level, x0, eps) + self.error

    objective = dfw.build("objective", "simple", weighting=on_schedule("weighting", weighting_name, schedule))
    exact, wrong = (
        objective(NetworkDenoiser(Knows(error), schedule, parameterization), x0, level, eps) for error in (0.0, 0.1)
    )
    assert exact.shape == (5,)
    assert (exact == 0).all()
    expected = 0.01 * output_weight(objective.weighting, parameterization, level)
    torch.testing.assert_close(wrong.double(), expected, rtol=1e-4, atol=0)
