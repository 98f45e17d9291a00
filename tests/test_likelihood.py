"""Log-densities against those of mixtures, which are known."""

from __future__ import annotations

import math

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.likelihood import bits_per_dim, dequantise, evaluate
from diffusion_fw.noise import generator

MIXTURE = dfw.oracles.GaussianMixture(
    torch.tensor([[0.6, 0.0], [-0.4, 0.5], [0.0, -0.7]]), torch.tensor([0.3, 0.25, 0.4]), torch.tensor([0.5, 0.2, 0.3])
)


@pytest.mark.parametrize("name", ["vp", "cosine_continuous", "flow"])
def test_the_exact_divergence_gives_the_mixtures_log_density_to_1e_4_nats(name):
    schedule = dfw.build("schedule", name)
    x = MIXTURE.sample(16, generator(0))
    found = dfw.likelihood.log_prob(MIXTURE.denoiser(schedule), x, atol=1e-8, rtol=1e-8)
    # x stands at the smallest noisy time, and at the other end stands N(0, sigma^2) instead of alpha x_0 + sigma eps.
    first, last = schedule(torch.tensor([schedule.t_min, 1.0], dtype=torch.float64)).alpha.tolist()
    assert (found - MIXTURE.log_prob(x)).abs().max() < 1e-4 + 2 * last + 2 * (1 - first)


def test_a_gaussian_image_has_its_closed_form():
    oracle = dfw.oracles.Gaussian(torch.full((1, 2, 2), 0.1), 0.5)
    x = oracle.sample(8, generator(1))
    found = dfw.likelihood.log_prob(oracle.denoiser(dfw.build("schedule", "flow")), x, atol=1e-8, rtol=1e-8)
    offset = (x - 0.1).flatten(1)
    expected = -offset.square().sum(1) / (2 * 0.25) - 2 * math.log(2 * math.pi * 0.25)
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("divergence", ["rademacher", "gaussian"])
def test_hutchinsons_estimate_is_unbiased(divergence):
    x = MIXTURE.sample(1, generator(2)).expand(400, 2)
    source = generator(3)

    def noise(like):
        return torch.randn(like.shape, dtype=like.dtype, generator=source)

    denoiser = MIXTURE.denoiser(dfw.build("schedule", "flow"))
    found = dfw.likelihood.log_prob(denoiser, x, divergence=divergence, noise=noise, atol=1e-5, rtol=1e-5)
    error = found.mean() - MIXTURE.log_prob(x[:1])[0]
    # Four standard errors: a wrong test fails one run in 16,000.
    assert abs(error) < 4 * found.std() / 20 + 1e-4
    assert found.std() > 0


def test_a_tighter_tolerance_takes_more_evaluations_and_gives_less_error():
    denoiser, x = MIXTURE.denoiser(dfw.build("schedule", "flow")), MIXTURE.sample(8, generator(4))
    loose, tight = (evaluate(denoiser, x, atol=tol, rtol=tol) for tol in (1e-3, 1e-7))
    assert tight.evaluations > loose.evaluations
    exact = MIXTURE.log_prob(x)
    assert (tight.nats - exact).abs().max() < (loose.nats - exact).abs().max()


def test_each_example_is_as_it_would_be_alone():
    denoiser, x = MIXTURE.denoiser(dfw.build("schedule", "flow")), MIXTURE.sample(4, generator(5))
    together = dfw.likelihood.log_prob(denoiser, x)
    apart = torch.cat([dfw.likelihood.log_prob(denoiser, row) for row in x.split(1)])
    assert torch.allclose(together, apart, rtol=1e-10)


def test_bits_of_uniform_bytes_are_eight():
    # The density of uniform dequantised bytes in [-1, 1] is 1/2 in each dimension.
    assert bits_per_dim(torch.tensor(5 * math.log(0.5)), 5).item() == pytest.approx(8)
    assert bits_per_dim(torch.tensor(0.0), 5, width=1.0).item() == pytest.approx(8)


def test_dequantised_pixels_stay_in_their_own_bin():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(50)
    values = dequantise(pixels, generator(6))
    assert torch.equal(((values.double() + 1) * 128).floor(), pixels.double())
