"""Log-densities against those of mixtures, which are known."""

from __future__ import annotations

import math

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.likelihood import bits_per_dim, dequantise, evaluate
from diffusion_fw.noise import generator
from diffusion_fw.registry import ConfigError

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


@pytest.mark.parametrize(
    "name",
    [
        "vp",
        "sub_vp",
        "ve",
        "edm",
        "flow",
        "cosine_continuous",
        "laplace",
        "linear_log_snr",
        "linear",
        "cosine",
        "scaled_linear",
    ],
)
def test_with_the_true_density_of_noise_it_is_that_of_the_smallest_noisy_time_on_every_path(name):
    """Tables too, whose log-SNR is interpolated: in the angle the flow of an exact denoiser knows no time."""
    schedule = dfw.build("schedule", name)
    first, last = schedule(torch.tensor([schedule.t_min, 1.0], dtype=torch.float64)).unbind()
    x = MIXTURE.marginal(first).sample(16, generator(7))
    denoiser, prior = MIXTURE.denoiser(schedule), MIXTURE.marginal(last).log_prob
    found = dfw.likelihood.log_prob(denoiser, x, prior=prior, atol=1e-8, rtol=1e-8)
    assert (found - MIXTURE.marginal(first).log_prob(x)).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["vp", "cosine_continuous"])
def test_with_the_true_density_of_noise_it_is_the_datas_to_1e_4_nats(name):
    schedule = dfw.build("schedule", name)
    x = MIXTURE.sample(64, generator(8))
    prior = MIXTURE.marginal(schedule(torch.ones((), dtype=torch.float64))).log_prob
    found = dfw.likelihood.log_prob(MIXTURE.denoiser(schedule), x, prior=prior, atol=1e-8, rtol=1e-8)
    assert (found - MIXTURE.log_prob(x)).abs().max() < 1e-4


def test_the_default_prior_is_that_from_which_samplers_start():
    schedule = dfw.build("schedule", "scaled_linear")
    sigma = schedule(torch.ones((), dtype=torch.float64)).sigma
    denoiser, x = MIXTURE.denoiser(schedule), MIXTURE.sample(4, generator(9))
    stated = dfw.likelihood.log_prob(
        denoiser, x, prior=lambda x: torch.distributions.Normal(0, sigma).log_prob(x).sum(1)
    )
    torch.testing.assert_close(dfw.likelihood.log_prob(denoiser, x), stated, rtol=1e-12, atol=0)


def test_float32_costs_little():
    denoiser, x = MIXTURE.denoiser(dfw.build("schedule", "flow")), MIXTURE.sample(8, generator(10))
    found = dfw.likelihood.log_prob(denoiser, x.float(), atol=1e-5, rtol=1e-5)
    assert found.dtype == torch.float64
    assert (found - MIXTURE.log_prob(x)).abs().max() < 1e-3


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


@pytest.mark.parametrize(("divergence", "constant"), [("rademacher", False), ("gaussian", True)])
def test_random_signs_are_exact_where_the_jacobian_is_diagonal(divergence, constant):
    """v^T J v = trace J for v of signs and J diagonal, as for an isotropic Gaussian; not for normal v."""
    oracle = dfw.oracles.Gaussian(torch.zeros(3), 0.5)
    denoiser, x = oracle.denoiser(dfw.build("schedule", "flow")), oracle.sample(8, generator(11))
    source = generator(12)
    found = dfw.likelihood.log_prob(
        denoiser, x, divergence=divergence, noise=lambda z: torch.randn(z.shape, dtype=z.dtype, generator=source)
    )
    error = (found - oracle.log_prob(x)).abs().max()
    assert error > 0.1 if constant else error < 1e-3


def test_the_variance_of_the_estimate_falls_with_the_number_of_probes():
    x = MIXTURE.sample(1, generator(13)).expand(400, 2)
    denoiser, source, variances = MIXTURE.denoiser(dfw.build("schedule", "flow")), generator(14), []
    for probes in (1, 16):
        found = dfw.likelihood.log_prob(
            denoiser,
            x,
            divergence="gaussian",
            probes=probes,
            noise=lambda z: torch.randn(z.shape, dtype=z.dtype, generator=source),
            atol=1e-4,
            rtol=1e-4,
        )
        variances.append(float(found.var()))
    # The ratio of two sample variances of 400 has a standard error of some tenth; kurtosis widens it.
    assert 8 < variances[0] / variances[1] < 32


class Counted:
    def __init__(self, denoiser):
        self.denoiser, self.schedule, self.calls = denoiser, denoiser.schedule, 0

    def __call__(self, x, level, cond=None):
        self.calls += 1
        return self.denoiser(x, level, cond)


def test_the_evaluations_are_those_of_the_denoiser():
    counted = Counted(MIXTURE.denoiser(dfw.build("schedule", "vp")))
    assert evaluate(counted, MIXTURE.sample(4, generator(15))).evaluations == counted.calls


def test_the_density_of_a_known_component_is_its_own():
    denoiser = MIXTURE.denoiser(dfw.build("schedule", "flow"))
    x, labels = MIXTURE.sample_with_labels(8, generator(16))
    found = dfw.likelihood.log_prob(denoiser, x, cond=labels, atol=1e-8, rtol=1e-8)
    own = torch.distributions.Normal(MIXTURE.means[labels], MIXTURE.stds[labels, None]).log_prob(x).sum(1)
    assert (found - own).abs().max() < 1e-3


def test_a_table_that_jumps_to_pure_noise_is_refused():
    schedule = dfw.build("schedule", "cosine", num_steps=10, zero_terminal_snr=True)
    with pytest.raises(ConfigError, match=r"likelihood needs a level.*zero_terminal_snr=false"):
        dfw.likelihood.log_prob(MIXTURE.denoiser(schedule), MIXTURE.sample(2, generator(17)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "hutchinson"}, "exact, rademacher, gaussian"),
        ({"divergence": "gaussian", "probes": 0}, "probes"),
    ],
)
def test_options_without_a_meaning_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        dfw.likelihood.log_prob(MIXTURE.denoiser(dfw.build("schedule", "vp")), MIXTURE.means, **options)


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
