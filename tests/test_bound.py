"""The variational bound against published figures, numerical integration and the exact model of Gaussian data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mpmath
import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.likelihood.bound import BIN, VariationalBound, discretised_log_likelihood, kl_normal
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.process.variance import log_variances

F64 = torch.float64


def tensor(*values):
    return torch.tensor(values, dtype=F64)


# The discretised Gaussian


@pytest.mark.parametrize(
    ("x", "mean", "std", "nats"),
    [(0, 0, 0.01, -1.187254), (0, 0, 0.1, -3.464726), (-1, -1, 0.01, -0.426900), (1, 0.98, 0.01, -2.919980)],
)
def test_published_figures_of_the_discretised_gaussian(x, mean, std, nats):
    """Ho et al. 2020, equation 13, with the exact error function; OpenAI's code has a tanh in its place."""
    found = discretised_log_likelihood(tensor(x), tensor(mean), tensor(2 * math.log(std)))
    assert found.item() == pytest.approx(nats, abs=6e-7)


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.02), (-0.999, 0.1), (1.2, 0.5)])
def test_the_masses_of_all_pixel_values_are_the_integrals_of_the_density(mean, std):
    x = torch.arange(256, dtype=F64) / 127.5 - 1
    found = discretised_log_likelihood(x, torch.full_like(x, mean), torch.full_like(x, 2 * math.log(std))).exp()
    assert found.sum().item() == pytest.approx(1, abs=1e-12)
    for index in (1, 120, 165, 254):
        low, high = float(x[index]) - BIN / 2, float(x[index]) + BIN / 2
        integral = mpmath.quad(lambda value: mpmath.npdf(value, mean, std), [low, high])
        assert found[index].item() == pytest.approx(float(integral), rel=1e-6, abs=1e-300)


def test_far_from_the_mean_value_and_gradient_stay_those_of_the_normal_density():
    """500 standard deviations off, where a difference of distribution functions is 0 in float32."""
    x, std = torch.tensor([0.0, 1.0, -1.0]), 0.002
    mean = torch.tensor([1.0, 0.0, 0.5], requires_grad=True)
    log_variance = torch.full((3,), 2 * math.log(std), requires_grad=True)
    found = discretised_log_likelihood(x, mean, log_variance)
    found.sum().backward()
    # The edge of the bin that is nearest to the mean carries the mass.
    near = mean.detach() - x
    near = near - near.sign() * BIN / 2
    torch.testing.assert_close(found.detach(), -(near / std).square() / 2, rtol=1e-3, atol=0)
    # torch's erfcx, from which the gradient comes, is right to 1% there in float32.
    torch.testing.assert_close(mean.grad, -near / std**2, rtol=0.02, atol=0)
    assert log_variance.grad.isfinite().all()


def test_the_gradient_is_the_derivative():
    x = tensor(-1, -0.2, 0.5, 1)
    mean = tensor(-0.9, -0.21, 0.7, 1.1).requires_grad_()
    log_variance = tensor(-4, -7, -3, -5).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, v: discretised_log_likelihood(x, m, v), (mean, log_variance))


# The terms


@pytest.mark.parametrize(("v_q", "v_p", "difference"), [(0.3, 0.7, 0.2), (1.0, 1.0, 1.5), (0.01, 0.5, 0.0)])
def test_the_divergence_of_two_normals_is_its_integral(v_q, v_p, difference):
    def integrand(x):
        q = mpmath.npdf(x, 0, mpmath.sqrt(v_q))
        return q * mpmath.log(q / mpmath.npdf(x, difference, mpmath.sqrt(v_p)))

    reach = 12 * math.sqrt(v_q)
    integral = float(mpmath.quad(integrand, mpmath.linspace(-reach, reach, 9)))
    found = kl_normal(tensor(difference**2), tensor(math.log(v_q)), tensor(math.log(v_p)))
    assert found.item() == pytest.approx(integral, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "steps", "published"),
    [("linear", 1000, 2.91129e-05), ("linear", 4000, 3.06338e-05), ("cosine", 1000, 1.75198e-09)],
)
def test_published_figures_of_the_priors_term(name, steps, published):
    """For x_0^2 = 1, L_T against N(0, I); ours is against N(0, sigma_T^2), which is smaller by 1e-4 of it or less."""
    bound = VariationalBound.of_table(dfw.build("schedule", name, num_steps=steps), dfw.build("variance", "small"), "t")
    assert bound.prior(torch.ones(1, 4, dtype=F64)).item() == pytest.approx(published, rel=1e-4)


@dataclass
class Exact:
    """The exact denoiser of N(0, std^2), with the logit at which a learned variance is the exact reverse one."""

    std: float
    schedule: Any
    levels: Any
    variance: str

    def __call__(self, x, level, cond=None):
        exact = dfw.oracles.Gaussian(torch.zeros(1), self.std).denoiser(self.schedule)(x, level)
        index = int((self.levels.t == level.t).nonzero()[0])
        variances = log_variances(self.levels)[index]
        transition = dfw.posterior(self.levels[index], self.levels[index + 1])
        # Var[x_s | x_t] = var_small + c_x0^2 Var[x_0 | x_t] for Gaussian data.
        spread = self.std**2 * level.sigma**2 / (level.alpha**2 * self.std**2 + level.sigma**2)
        wanted = (transition.var_small + transition.c_x0**2 * spread).log()
        u = (wanted - variances.small) / (variances.large - variances.small)
        logit = {
            "learned_range": 2 * u - 1,
            "learned": wanted - variances.large,
            # Of the level alone, whatever the step.
            "learned_spread": (spread * (level.alpha**2 + level.sigma**2) / level.sigma**2).log(),
        }.get(self.variance, u)
        return Prediction(exact.x0, exact.eps, logit.to(x).expand_as(x))


def measured(std, schedule, steps, variance, count=20_000, seed=0):
    """Mean and standard error of each term over draws of Gaussian pixel values: (prior, terms (S,), errors (S,))."""
    levels = schedule(dfw.build("grid", "respaced")(steps, schedule))
    bound, denoiser = VariationalBound(levels, dfw.build("variance", variance)), Exact(std, schedule, levels, variance)
    source = torch.Generator().manual_seed(seed)
    x0 = ((std * torch.randn(count, 1, dtype=F64, generator=source) + 1) * 127.5).round() / 127.5 - 1
    terms = []
    for index in range(steps):
        level = levels[index]
        x = level.alpha * x0 + level.sigma * torch.randn(count, 1, dtype=F64, generator=source)
        terms.append(bound.term(denoiser(x, level), x0, torch.full((count,), index)))
    terms = torch.stack(terms)
    return bound, x0, terms


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize(("name", "steps"), [("linear", 20), ("cosine", 40)])
def test_every_term_of_gaussian_data_is_its_closed_form(name, steps, variance):
    """E[KL] = (log v - log v_q + v_q / v - 1 + c_x0^2 Var[x_0 | x_t] / v) / 2, to 5 standard errors of the mean."""
    std, schedule = 0.25, dfw.build("schedule", name)
    bound, _, terms = measured(std, schedule, steps, variance)
    before, after = bound.levels[:-2], bound.levels[1:-1]
    transition = dfw.posterior(before, after)
    v_q, v = transition.var_small, transition.var_small if variance == "small" else transition.var_large
    spread = std**2 * before.sigma**2 / (before.alpha**2 * std**2 + before.sigma**2)
    expected = (v.log() - v_q.log() + v_q / v - 1 + transition.c_x0**2 * spread / v) / 2 / math.log(2)
    error = terms[:-1].std(1) / math.sqrt(terms.shape[1])
    assert ((terms[:-1].mean(1) - expected).abs() < 5 * error + 1e-3 * expected).all()


@pytest.mark.parametrize("variance", ["learned_range", "learned", "learned_spread"])
@pytest.mark.parametrize("steps", [10, 200])
def test_the_bound_is_tight_where_mean_and_variance_are_exact(steps, variance):
    """The reverse chain of Gaussian data is Gaussian, so that the bound is the data's own entropy, for any steps."""
    std, schedule = 0.25, dfw.build("schedule", "linear")
    bound, x0, terms = measured(std, schedule, steps, variance)
    found = bound.prior(x0) + terms.sum(0)
    exact = -discretised_log_likelihood(x0, torch.zeros_like(x0), torch.full_like(x0, 2 * math.log(std)))[:, 0]
    difference = found - exact / math.log(2)
    # What a sampler starts from, N(0, sigma_T^2), is not quite the marginal at T; pixels are not quite Gaussian.
    assert difference.mean().item() == pytest.approx(0, abs=5 * difference.std().item() / math.sqrt(len(x0)) + 2e-3)
    fixed = measured(std, schedule, steps, "small")[2].sum(0).mean() + bound.prior(x0).mean()
    assert fixed > found.mean() + 0.01


def test_terms_of_several_steps_at_once_are_those_of_each():
    schedule = dfw.build("schedule", "cosine", num_steps=10)
    bound = VariationalBound.of_table(schedule, dfw.build("variance", "learned_range"), "test")
    source = torch.Generator().manual_seed(0)
    x0, guess, logit = (torch.randn(10, 3, 2, 2, generator=source) for _ in range(3))
    steps = torch.randperm(10, generator=source)
    together = bound.term(Prediction(guess, guess, logit), x0, steps)
    for row in range(10):
        part = slice(row, row + 1)
        alone = bound.term(Prediction(guess[part], guess[part], logit[part]), x0[part], steps[part])
        torch.testing.assert_close(together[part], alone)


def test_a_continuous_schedule_has_no_rows_to_sum_over():
    with pytest.raises(dfw.ConfigError, match=r"objective.*rows.*schedule=cosine"):
        VariationalBound.of_table(dfw.build("schedule", "vp"), dfw.build("variance", "small"), "objective")
