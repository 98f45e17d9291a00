"""Posterior guidance against Bayes for Gaussians."""

from __future__ import annotations

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.guidance.operators import Mask, Matrix

STD = 0.5
MATRIX = torch.tensor([[1.0, 0.4, 0.0, -0.3], [0.2, -1.0, 0.7, 0.0]], dtype=torch.float64)
Y = torch.tensor([0.6, -0.8], dtype=torch.float64)
OPERATOR = Matrix(MATRIX, (4,))


def build(denoiser, **parameters):
    return dfw.build(
        "guidance",
        "posterior",
        **{
            "denoiser": denoiser,
            "operator": OPERATOR,
            "measurement": Y,
            "data_std": STD,
            "noise_std": 0.2,
            **parameters,
        },
    )


def posterior_mean(mean, x, level, noise):
    """E[x_0 | x_t, y] for x_0 ~ N(mean, STD^2 I), by solving for the joint Gaussian of (x_t, y)."""
    identity = torch.eye(4, dtype=torch.float64)
    measured = torch.cat([level.alpha * identity, MATRIX])
    errors = torch.cat([level.sigma.square().expand(4), torch.full((2,), noise**2, dtype=torch.float64)])
    seen = torch.cat([x, Y.expand(len(x), 2)], 1)
    gain = STD**2 * measured.T @ torch.linalg.inv(STD**2 * measured @ measured.T + torch.diag(errors))
    return mean + (seen - mean @ measured.T) @ gain.T


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("schedule", ["vp", "flow", "edm", "cosine"])
def test_it_is_the_exact_posterior_mean_of_gaussian_data_at_every_level(tools, schedule, noise):
    """Song et al. 2023 (ΠGDM): x_0 given x_t is Gaussian of variance r^2, so that the approximation is an identity."""
    mean = tools.draw(1, seed=5)
    denoiser = tools.Labelled(mean, STD, dfw.build("schedule", schedule))
    guided, x = build(denoiser, noise_std=noise), tools.draw()
    for t in (0.02, 0.1, 0.5, 0.9):
        level = denoiser.schedule(tools.times(t))
        torch.testing.assert_close(guided(x, level).x0, posterior_mean(mean, x, level, noise), rtol=1e-7, atol=1e-7)


def test_samples_have_the_posteriors_mean_and_covariance(tools):
    mean = tools.draw(1, seed=5)
    guided = build(tools.Labelled(mean, STD))
    x = torch.randn(4000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    samples = dfw.build("sampler", "ddim", steps=300)(guided, x)
    gain = STD**2 * MATRIX.T @ torch.linalg.inv(STD**2 * MATRIX @ MATRIX.T + 0.04 * torch.eye(2))
    expected = mean[0] + gain @ (Y - MATRIX @ mean[0])
    covariance = STD**2 * (torch.eye(4, dtype=torch.float64) - gain @ MATRIX)
    # Four standard errors of a mean, and of a variance, of 4000 draws.
    torch.testing.assert_close(samples.mean(0), expected, rtol=0, atol=4 * STD / 4000**0.5)
    torch.testing.assert_close(samples.T.cov(), covariance, rtol=0, atol=4 * STD**2 * (2 / 4000) ** 0.5)


def test_the_mean_flows_to_the_posterior_mean_in_any_number_of_steps(tools):
    mean = tools.draw(1, seed=5)
    guided = build(tools.Labelled(mean, STD), noise_std=0.0)
    expected = mean + (Y - mean @ MATRIX.T) @ torch.linalg.pinv(MATRIX).T
    x = guided.schedule(tools.times(1.0)).alpha * expected
    for steps in (1, 3, 10):
        sample = dfw.build("sampler", "ddim", steps=steps)(guided, x)
        torch.testing.assert_close(sample, expected, rtol=1e-7, atol=1e-7)


def test_a_certain_prediction_is_diffusion_posterior_sampling(tools):
    """Chung et al. 2023 (DPS), equation 16: the gradient of -||y - A x_0(x_t)||^2 / (2 noise_std^2)."""
    denoiser = tools.Mixture()
    guided = build(denoiser, data_std=0.0, noise_std=0.3, scale=0.7)
    x, cond, level = tools.draw().requires_grad_(), tools.labels(), denoiser.schedule(tools.times(0.4))
    likelihood = -(Y - denoiser(x, level).x0 @ MATRIX.T).square().sum() / (2 * 0.3**2)
    (gradient,) = torch.autograd.grad(likelihood, x)
    expected = denoiser(x, level).eps - 0.7 * level.sigma * gradient
    torch.testing.assert_close(guided(x, level).eps, expected)
    assert not torch.isclose(guided(x, level, cond).eps, expected).any()


def test_scale_0_is_unguided(tools):
    denoiser = tools.Mixture()
    x, level = tools.draw(), denoiser.schedule(tools.times(0.4))
    assert torch.equal(build(denoiser, scale=0.0)(x, level).x0, denoiser(x, level).x0)


def test_correlated_unknown_values_follow_the_known_ones_better_than_by_replacement(tools):
    """Two narrow Gaussians on a diagonal: the known value decides between them, and so the unknown one."""
    means = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    half = torch.full((2,), 0.5, dtype=torch.float64)
    denoiser = tools.Mixture(means=means, stds=0.2 * half, weights=half)
    known = {"operator": Mask(torch.tensor([True, False])), "measurement": torch.tensor([1.0, 0.0]).double()}
    x = torch.randn(1000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def share(guided):
        samples = dfw.build("sampler", "ddim", steps=100)(guided, x)
        return (samples - means[0]).norm(dim=1).lt(0.5).double().mean().item()

    replaced = share(dfw.build("guidance", "replacement", denoiser=denoiser, **known))
    guided = share(build(denoiser, **known, data_std=1.0, noise_std=0.1))
    assert 0.5 < replaced < guided
    assert guided > 0.9


def test_certainty_of_prediction_and_measurement_at_once_is_refused(tools):
    with pytest.raises(dfw.ConfigError, match=r"guidance.posterior.data_std=0.*guidance.posterior.noise_std=0"):
        build(tools.Mixture(), data_std=0.0, noise_std=0.0)
