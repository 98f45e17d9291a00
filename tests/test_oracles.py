"""The oracles themselves, against brute force: quadrature, automatic differentiation, sampling."""

from __future__ import annotations

import math

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.noise import generator
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.registry import ConfigError

PLANE = dfw.oracles.GaussianMixture(
    torch.tensor([[1.0, 0.0], [-1.0, 2.0], [0.5, -1.5]]), torch.tensor([0.3, 0.5, 0.2]), torch.tensor([0.4, 0.5, 0.1])
)
LINE = dfw.oracles.GaussianMixture(torch.tensor([[0.7], [-0.4]]), torch.tensor([0.2, 0.5]), torch.tensor([0.3, 0.7]))
TIMES = [0.01, 0.3, 0.7, 1.0]


@pytest.fixture(scope="module")
def schedule():
    return dfw.build("schedule", "cosine_continuous")


def level_at(schedule, t) -> NoiseLevel:
    return schedule(torch.tensor(t, dtype=torch.float64))


@pytest.mark.parametrize("t", TIMES)
def test_the_denoiser_is_the_posterior_mean_by_quadrature(schedule, t):
    level = level_at(schedule, t)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    grid = torch.linspace(-5, 5, 200_001, dtype=torch.float64)
    likelihood = -((x - level.alpha * grid) ** 2) / (2 * level.sigma**2)
    weight = (LINE.log_prob(grid[:, None]) + likelihood).softmax(dim=1)
    found = LINE.denoiser(schedule)(x, level)
    assert torch.allclose(found.x0, (weight * grid).sum(1, keepdim=True), atol=1e-8)
    assert torch.allclose(level.alpha * found.x0 + level.sigma * found.eps, x, atol=1e-12)


@pytest.mark.parametrize("t", TIMES)
def test_eps_is_minus_sigma_times_the_score_of_the_marginal(schedule, t):
    level = level_at(schedule, t)
    x = torch.randn(7, 2, dtype=torch.float64, generator=generator(0)).requires_grad_()
    (score,) = torch.autograd.grad(PLANE.marginal(level).log_prob(x).sum(), x)
    found = PLANE.denoiser(schedule)(x.detach(), level)
    assert torch.allclose(found.eps, -level.sigma * score, atol=1e-10)


def test_the_log_density_integrates_to_one_and_agrees_with_torch(schedule):
    x = torch.randn(5, 2, dtype=torch.float64, generator=generator(1))
    components = torch.distributions.MultivariateNormal(
        PLANE.means, torch.eye(2, dtype=torch.float64) * PLANE.stds.square()[:, None, None]
    )
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(PLANE.weights), components)
    assert torch.allclose(PLANE.log_prob(x), mixture.log_prob(x), atol=1e-12)


def test_samples_have_the_mixtures_mean_and_covariance():
    count = 200_000
    x = PLANE.sample(count, generator(2))
    spread = PLANE.covariance.diagonal().sqrt()
    assert ((x.mean(0) - PLANE.mean).abs() < 5 * spread / count**0.5).all()
    # The covariance's entries have a standard error of at most sqrt(3) spread_i spread_j / sqrt(n) here.
    assert ((x.T.cov() - PLANE.covariance).abs() < 5 * 3**0.5 * spread.outer(spread) / count**0.5).all()


@pytest.mark.parametrize(
    ("std", "name", "expected"),
    [
        (0.5, "linear", 0.173053406),
        (0.5, "cosine", 0.327653427),
        (1.0, "linear", 0.275513233),
        (1.0, "cosine", 0.495577513),
    ],
)
def test_the_irreducible_eps_loss_of_a_gaussian(std, name, expected):
    """Computed independently in float64 for t uniform on the rows of T = 1000."""
    rows = dfw.build("schedule", name).table.at(slice(1, None))
    oracle = dfw.oracles.Gaussian(torch.zeros(1), std)
    loss = (oracle.irreducible(rows) * (rows.alpha / rows.sigma).square()).mean()
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_the_irreducible_loss_of_a_mixture_is_the_error_of_its_denoiser(schedule):
    level = level_at(schedule, 0.5)
    x0 = PLANE.sample(100_000, generator(3))
    x = level.alpha * x0 + level.sigma * torch.randn(x0.shape, dtype=torch.float64, generator=generator(4))
    errors = (PLANE.denoiser(schedule)(x, level).x0 - x0).square().mean(1)
    tolerance = 5 * float(errors.std()) / 100_000**0.5 + 5 * float(errors.std()) / 4096**0.5
    assert abs(float(errors.mean() - PLANE.irreducible(level))) < tolerance


def test_the_gaussians_flow_map_is_that_of_the_paper(schedule):
    """x_0 = s x_T / sqrt(alpha^2 s^2 + sigma^2) for data N(0, s^2)."""
    oracle = dfw.oracles.Gaussian(torch.zeros(3), 0.5)
    last, clean = level_at(schedule, 0.9), level_at(schedule, 0.0)
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator(5))
    expected = 0.5 * x / math.sqrt(float(last.alpha) ** 2 * 0.25 + float(last.sigma) ** 2)
    assert torch.allclose(oracle.flow(x, last, clean), expected, atol=1e-12)


def test_a_level_for_each_example_is_that_level_for_it_alone(schedule):
    t = torch.tensor([0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    x = torch.randn(4, 2, dtype=torch.float64, generator=generator(6))
    denoiser, levels = PLANE.denoiser(schedule), schedule(t)
    together = denoiser(x, levels)
    for i in range(4):
        alone = denoiser(x[i : i + 1], levels.at(i))
        assert torch.allclose(together.x0[i], alone.x0[0], atol=1e-12)
        assert torch.allclose(together.eps[i], alone.eps[0], atol=1e-12)


def test_a_known_component_gives_its_own_posterior(schedule):
    level, denoiser = level_at(schedule, 0.6), PLANE.denoiser(schedule)
    x = torch.randn(3, 2, dtype=torch.float64, generator=generator(7))
    for k in range(3):
        alone = dfw.oracles.Gaussian(PLANE.means[k], float(PLANE.stds[k])).denoiser(schedule)
        assert torch.allclose(denoiser(x, level, torch.full((3,), k)).x0, alone(x, level).x0, atol=1e-12)
    assert torch.equal(denoiser(x, level, torch.full((3,), 3)).x0, denoiser(x, level).x0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_precision_and_shape_of_x_are_kept(schedule, dtype):
    oracle = dfw.oracles.GaussianMixture(torch.zeros(2, 3, 4, 4), torch.tensor([0.5, 1.0]))
    x = torch.randn(5, 3, 4, 4, dtype=dtype, generator=generator(8))
    for t in (0.0, 0.5, 1.0):
        found = oracle.denoiser(schedule)(x, level_at(schedule, t))
        assert found.x0.dtype == found.eps.dtype == dtype
        assert found.x0.shape == x.shape
        assert torch.isfinite(found.x0).all()
        assert torch.isfinite(found.eps).all()


def test_the_empirical_denoiser_is_a_mixture_of_points(schedule):
    data = torch.randn(20, 2, dtype=torch.float64, generator=generator(9))
    points = dfw.oracles.GaussianMixture(data, torch.zeros(20)).denoiser(schedule)
    empirical = dfw.oracles.Empirical(data, schedule)
    x = torch.randn(6, 2, dtype=torch.float64, generator=generator(10))
    for t in (0.05, 0.5, 1.0):
        level = level_at(schedule, t)
        assert torch.allclose(points(x, level).x0, empirical(x, level).x0, atol=1e-10)


def test_weights_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ConfigError, match="sum 1"):
        dfw.oracles.GaussianMixture(torch.zeros(2, 1), torch.ones(2), torch.tensor([0.5, 0.6]))
