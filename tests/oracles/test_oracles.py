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
    assert torch.allclose(PLANE.marginal(level).score(x.detach()), score, atol=1e-10)


@pytest.mark.parametrize("t", TIMES)
def test_the_marginal_is_the_convolution_of_the_scaled_density_with_the_noise(schedule, t):
    level = level_at(schedule, t)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    grid = torch.linspace(-5, 5, 100_001, dtype=torch.float64)
    noise = torch.distributions.Normal(level.alpha * grid, level.sigma)
    joint = LINE.log_prob(grid[:, None]).exp() * noise.log_prob(x[:, None]).exp()
    convolved = torch.trapezoid(joint, grid, dim=1)
    assert torch.allclose(LINE.marginal(level).log_prob(x[:, None]).exp(), convolved, rtol=1e-9, atol=1e-14)


def test_the_log_density_agrees_with_torch(schedule):
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
    rows = dfw.build("schedule", name).table[1:]
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
        alone = denoiser(x[i : i + 1], levels[i])
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


def test_the_empirical_denoiser_does_not_depend_on_its_chunks(schedule):
    data = torch.randn(25, 3, dtype=torch.float64, generator=generator(11))
    x = torch.randn(6, 3, dtype=torch.float64, generator=generator(12))
    level = schedule(torch.tensor([0.0, 0.003, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64))
    whole = dfw.oracles.Empirical(data, schedule)(x, level)
    for chunk in (1, 7, 24):
        parts = dfw.oracles.Empirical(data, schedule, chunk)(x, level)
        assert torch.allclose(parts.x0, whole.x0, atol=1e-12)
        assert torch.allclose(parts.eps, whole.eps, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("t", [0.0, 1e-5])
def test_points_in_almost_clean_data_are_found_again(schedule, dtype, t):
    data = torch.randn(40, 3, 8, 8, dtype=dtype, generator=generator(13))
    level = level_at(schedule, t)
    points = dfw.oracles.GaussianMixture(data, torch.zeros(40)).denoiser(schedule)
    for denoiser in (points, dfw.oracles.Empirical(data, schedule)):
        found = denoiser((level.alpha * data[:5]).to(dtype), level)
        assert torch.allclose(found.x0, data[:5], atol=1e-6)
        assert torch.isfinite(found.eps).all()
        assert found.x0.dtype == dtype


def test_clean_points_leave_nothing_to_be_lost(schedule):
    points = dfw.oracles.GaussianMixture(torch.tensor([[1.0], [-1.0]]), torch.zeros(2))
    assert points.irreducible(level_at(schedule, 0.0)) == 0


# --------------------------------------------------------------------------------------------------------------------
# Correlated Gaussians
# --------------------------------------------------------------------------------------------------------------------

FACTOR = torch.randn(4, 3, dtype=torch.float64, generator=generator(14))
COVARIANCE = FACTOR @ FACTOR.T + torch.diag(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64))
MEAN = torch.tensor([[0.3, -0.2], [0.1, 0.5]], dtype=torch.float64)
CORRELATED = dfw.oracles.CorrelatedGaussian(MEAN, COVARIANCE)


@pytest.mark.parametrize("t", [0.0, *TIMES])
def test_a_correlated_gaussian_is_conditioned_by_the_block_formula(schedule, t):
    """E[(x_0, eps) | x_t] = mean + Cov[(x_0, eps), x_t] Cov[x_t]^-1 (x_t - E x_t)."""
    level, x = level_at(schedule, t), torch.randn(5, 2, 2, dtype=torch.float64, generator=generator(15))
    identity = torch.eye(4, dtype=torch.float64)
    offset = (x - level.alpha * MEAN).flatten(1)
    solved = torch.linalg.solve(level.alpha**2 * COVARIANCE + level.sigma**2 * identity, offset.T).T
    found = CORRELATED.denoiser(schedule)(x, level)
    assert torch.allclose(found.x0, MEAN + (level.alpha * solved @ COVARIANCE).view_as(x), atol=1e-12)
    assert torch.allclose(found.eps, (level.sigma * solved).view_as(x), atol=1e-12)
    assert torch.allclose(level.alpha * found.x0 + level.sigma * found.eps, x, atol=1e-12)


def test_density_and_score_of_a_correlated_gaussian_agree_with_torch(schedule):
    marginal = CORRELATED.marginal(level_at(schedule, 0.4))
    x = torch.randn(5, 2, 2, dtype=torch.float64, generator=generator(16)).requires_grad_()
    reference = torch.distributions.MultivariateNormal(marginal.mean.flatten(), marginal.covariance)
    density = reference.log_prob(x.flatten(1))
    (score,) = torch.autograd.grad(density.sum(), x)
    assert torch.allclose(marginal.log_prob(x), density, atol=1e-12)
    assert torch.allclose(marginal.score(x.detach()), score, atol=1e-12)


def test_samples_of_a_correlated_gaussian_have_its_mean_and_covariance():
    count = 200_000
    x = CORRELATED.sample(count, generator(17)).flatten(1)
    spread = COVARIANCE.diagonal().sqrt()
    assert ((x.mean(0) - MEAN.flatten()).abs() < 5 * spread / count**0.5).all()
    # The standard error of an entry is sqrt((C_ii C_jj + C_ij^2) / n), at most sqrt(2 C_ii C_jj / n).
    assert ((x.T.cov() - COVARIANCE).abs() < 5 * 2**0.5 * spread.outer(spread) / count**0.5).all()


def test_the_flow_of_a_correlated_gaussian_is_that_of_an_adaptive_integrator(schedule):
    last, first = level_at(schedule, 1.0), level_at(schedule, schedule.t_min)
    x = torch.randn(3, 2, 2, dtype=torch.float64, generator=generator(18))
    ode = dfw.build("sampler", "ode", atol=1e-11, rtol=1e-11)
    integrated = ode(CORRELATED.denoiser(schedule), x)
    # The sampler ends with the prediction of x_0 at the smallest noisy time.
    exact = CORRELATED.denoiser(schedule)(CORRELATED.flow(x, last, first), first).x0
    assert torch.allclose(integrated, exact, atol=1e-8)
    assert torch.allclose(CORRELATED.flow(CORRELATED.flow(x, last, first), first, last), x, atol=1e-10)


def test_an_uncorrelated_gaussian_is_the_isotropic_one(schedule):
    isotropic = dfw.oracles.Gaussian(MEAN, 0.7)
    diagonal = dfw.oracles.CorrelatedGaussian(MEAN, 0.49 * torch.eye(4))
    x = torch.randn(4, 2, 2, dtype=torch.float64, generator=generator(19))
    levels = schedule(torch.tensor([0.1, 0.5, 0.9, 1.0], dtype=torch.float64))
    found, expected = (oracle.denoiser(schedule)(x, levels) for oracle in (diagonal, isotropic))
    # 0.49 reaches the oracle as a float32.
    assert torch.allclose(found.x0, expected.x0, atol=1e-7)
    assert torch.allclose(found.eps, expected.eps, atol=1e-7)
    assert torch.allclose(diagonal.irreducible(levels), isotropic.irreducible(levels), atol=1e-7)
    ends = levels[3], levels[0]
    assert torch.allclose(diagonal.flow(x, *ends), isotropic.flow(x, *ends), atol=1e-7)


def test_a_degenerate_covariance_leaves_its_directions_exact_at_every_level(schedule):
    flat = dfw.oracles.CorrelatedGaussian(torch.zeros(2), torch.diag(torch.tensor([1.0, 0.0])))
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([[0.5, 0.0]], dtype=dtype)
        for t in (0.0, 0.5, 1.0):
            found = flat.denoiser(schedule)(x, level_at(schedule, t))
            assert found.x0[0, 1] == 0
            assert found.eps.isfinite().all()
            assert found.x0.dtype == found.eps.dtype == dtype


@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        (torch.eye(3), "2 x 2"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (torch.diag(torch.tensor([1.0, -0.1])), "negative eigenvalue"),
    ],
)
def test_what_is_no_covariance_is_refused(covariance, message):
    with pytest.raises(ConfigError, match=message):
        dfw.oracles.CorrelatedGaussian(torch.zeros(2), covariance)


def test_weights_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ConfigError, match="sum 1"):
        dfw.oracles.GaussianMixture(torch.zeros(2, 1), torch.ones(2), torch.tensor([0.5, 0.6]))


def test_a_level_that_was_visited_in_inference_mode_can_be_differentiated_later():
    mixture = dfw.oracles.GaussianMixture(torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), torch.tensor([0.3, 0.4]))
    schedule = dfw.build("schedule", "vp")
    level = schedule(torch.tensor(0.5, dtype=torch.float64))
    x = torch.ones(2, 2, dtype=torch.float64)
    with torch.inference_mode():
        mixture.denoiser(schedule)(x, level)
    x = x.requires_grad_()
    mixture.denoiser(schedule)(x, level).x0.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
