"""Sliced score matching against closed forms on Gaussian data, and against denoising score matching."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.noise import generator

VARIANTS = [
    {},
    {"projections": 3},
    {"directions": "normal", "projections": 2},
    {"variance_reduced": False, "projections": 2},
    {"variance_reduced": False, "directions": "normal"},
]


class Linear(nn.Module):
    """F = A x + c."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(size, size, dtype=torch.float64)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(size, size, generator=generator(0)) / 2)
            self.layer.bias.copy_(torch.randn(size, generator=generator(1)))

    def forward(self, x, label, cond):
        return self.layer(x)


def parts(parameterization: str, weighting: str = "snr", **options):
    weight = dfw.build("weighting", weighting)
    denoiser = dfw.NetworkDenoiser(
        Linear(3), dfw.build("schedule", "vp"), dfw.build("parameterization", parameterization)
    )
    return denoiser, weight, dfw.build("objective", "sliced_score_matching", weighting=weight, **options)


def draws(denoiser, count: int = 20_000, t: float = 0.3):
    oracle = dfw.oracles.CorrelatedGaussian(torch.tensor([0.3, -0.2, 0.5]), torch.diag(torch.tensor([0.5, 1.0, 2.0])))
    level = denoiser.schedule(torch.full((count,), t, dtype=torch.float64))
    x0 = oracle.sample(count, generator(2))
    return oracle, x0, level, torch.randn(x0.shape, dtype=torch.float64, generator=generator(3))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("parameterization", ["epsilon", "score", "v"])
def test_its_expectation_is_the_fisher_divergence_up_to_a_constant(parameterization, options):
    """E[loss] = sigma^2 (E|s - s*|^2 - E|s*|^2) / D, where s* is the exact score of x_t."""
    denoiser, _, objective = parts(parameterization, **options)
    oracle, x0, level, eps = draws(denoiser)
    torch.manual_seed(0)
    with torch.no_grad():
        losses = objective(denoiser, x0, level, eps)
    assert not losses.requires_grad
    x = dfw.noised(level, x0, eps)
    exact, found = oracle.marginal(level[0]).score(x), -denoiser(x, level).eps / level.sigma[:, None]
    expected = level.sigma.square() * ((found - exact).square() - exact.square()).mean(1)
    difference = losses - expected.detach()
    # Five standard errors: a wrong test fails one run in a million.
    assert abs(float(difference.mean())) < 5 * float(difference.std()) / len(x0) ** 0.5


@pytest.mark.parametrize("weighting", ["snr", "native", "min_snr"])
@pytest.mark.parametrize("parameterization", ["epsilon", "score"])
def test_it_is_the_simple_objective_less_the_weight_of_eps_with_the_same_gradient(parameterization, weighting):
    denoiser, weight, objective = parts(parameterization, weighting, projections=3)
    _, x0, level, eps = draws(denoiser)
    torch.manual_seed(0)
    simple = dfw.build("objective", "simple", weighting=weight)(denoiser, x0, level, eps)
    sliced = objective(denoiser, x0, level, eps)
    # For epsilon a native weight is that of eps, for the score it is that of eps times sigma^2.
    known = {"snr": 1.0, "min_snr": min(1.0, 5 / float(level.log_snr[0].exp()))}
    constant = known.get(weighting, 1.0 if parameterization == "epsilon" else float(level.sigma[0]) ** -2)
    difference = simple - sliced - constant
    assert abs(float(difference.detach().mean())) < 5 * float(difference.detach().std()) / len(x0) ** 0.5
    parameters = list(denoiser.parameters())
    one, other = (torch.autograd.grad(loss.mean(), parameters) for loss in (simple, sliced))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.05 * constant)


def test_the_exact_score_has_the_irreducible_loss():
    denoiser, _, objective = parts("epsilon")
    oracle, x0, level, eps = draws(denoiser)
    least = objective.irreducible(denoiser, oracle.denoiser(denoiser.schedule), x0, level, eps)
    variances = level.alpha[0].square() * oracle.variances + level.sigma[0].square()
    expected = -(level.sigma[0].square() / variances).mean()  # -sigma^2 E|s*|^2 / D
    assert abs(float(least.mean() - expected)) < 5 * float(least.std()) / len(x0) ** 0.5


def test_a_network_with_attention_has_its_second_derivatives():
    options = {"channels": 8, "channel_mult": [1], "attention_resolutions": [4]}
    network = dfw.build("network", "unet", shape=(1, 4, 4), **options)
    denoiser = dfw.NetworkDenoiser(network, dfw.build("schedule", "vp"), dfw.build("parameterization", "epsilon"))
    objective = dfw.build("objective", "sliced_score_matching", weighting=dfw.build("weighting", "snr"))
    x0, eps = torch.randn(2, 2, 1, 4, 4, generator=generator(0))
    level = denoiser.schedule(torch.full((2,), 0.5, dtype=torch.float64))
    objective(denoiser, x0, level, eps).mean().backward()
    assert all(item.grad is not None and item.grad.isfinite().all() for item in network.parameters())
