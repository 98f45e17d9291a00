"""The least possible loss, against its closed form."""

from __future__ import annotations

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.noise import generator
from diffusion_fw.objectives.weighting import output_weight


@pytest.mark.parametrize("weighting", ["native", "min_snr", "snr"])
@pytest.mark.parametrize("parameterization", ["epsilon", "x0", "v", "edm", "flow"])
def test_the_perfect_networks_loss_is_the_posterior_variance_in_the_space_of_its_output(parameterization, weighting):
    """Given x_t, F = a x_0 + b (x_t - alpha x_0) / sigma, whose variance is (D / sigma)^2 Var[x_0 | x_t]."""
    oracle = dfw.oracles.Gaussian(torch.tensor([0.3, -0.2]), 0.5)
    schedule = dfw.build("schedule", "vp")
    component, weight = dfw.build("parameterization", parameterization), dfw.build("weighting", weighting)
    objective = dfw.build("objective", "simple", weighting=weight)
    denoiser = dfw.NetworkDenoiser(dfw.build("network", "mlp", shape=(2,)), schedule, component)
    count = 40_000
    level = schedule(torch.full((count,), 0.25, dtype=torch.float64))
    x0 = oracle.sample(count, generator(0))
    eps = torch.randn(x0.shape, dtype=torch.float64, generator=generator(1))
    losses = objective.irreducible(denoiser, oracle.denoiser(schedule), x0, level, eps)
    one = level[0:1]
    slope = component.determinant(one) / one.sigma
    expected = output_weight(weight, component, one) * slope.square() * oracle.irreducible(one)
    # Five standard errors: a wrong test fails one run in a million.
    assert abs(float(losses.mean() - expected)) < 5 * float(losses.std()) / count**0.5


def test_no_network_is_below_the_irreducible_loss_of_its_own_draws():
    oracle = dfw.build("data", "gaussian_mixture").oracle
    schedule, component = dfw.build("schedule", "vp"), dfw.build("parameterization", "v")
    objective = dfw.build("objective", "simple", weighting=dfw.build("weighting", "native"))
    denoiser = dfw.NetworkDenoiser(dfw.build("network", "mlp", shape=(2,)), schedule, component)
    x0 = oracle.sample(4000, generator(2)).float()
    eps = torch.randn(x0.shape, generator=generator(3))
    level = schedule(torch.linspace(0.01, 1, 4000, dtype=torch.float64))
    with torch.no_grad():
        loss = objective(denoiser, x0, level, eps).mean()
    assert objective.irreducible(denoiser, oracle.denoiser(schedule), x0, level, eps).mean() < loss
