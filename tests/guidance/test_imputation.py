"""Replacement of x_t by a new draw at every evaluation: inpainting and colourisation of Song et al. 2021."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.guidance.operators import ChannelMatrix, Mask
from diffusion_fw.likelihood import log_prob
from diffusion_fw.noise import SampleNoise
from diffusion_fw.oracles import CorrelatedGaussian
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.ddim import DDIM
from diffusion_fw.sampling.draw import draw, frames

KNOWN = torch.tensor([True, False, True, False])
VALUES = torch.tensor([0.7, 9.0, -0.2, 9.0], dtype=torch.float64)
GRAY = torch.full((1, 3), 1 / 3, dtype=torch.float64)


def normal(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, dtype=like.dtype, generator=generator)


def imputed(tools):
    return dfw.build(
        "guidance", "imputation", denoiser=tools.Mixture(), operator=Mask(KNOWN), measurement=VALUES.float()
    )


@pytest.mark.parametrize("name", ["reverse_diffusion", "ddpm"])
def test_the_unknown_values_take_the_step_of_the_replaced_state(tools, name):
    """x_t with its known values drawn from N(alpha y, sigma^2) is what the step starts from; the unknown ones stay."""
    denoiser, x, z = tools.Mixture(), tools.draw(), tools.draw(seed=5)
    guided = dfw.build(
        "guidance", "imputation", denoiser=denoiser, operator=Mask(KNOWN), measurement=VALUES, noise=lambda _: z
    )
    sampler = dfw.build("sampler", name, steps=4)
    level = denoiser.schedule(tools.times(1.0))
    replaced = torch.where(KNOWN, level.alpha * VALUES + level.sigma * z, x)
    ours, plain = (
        next(sampler.trajectory(model, state, noise=lambda _: z)).x
        for model, state in ((guided, x), (denoiser, replaced))
    )
    torch.testing.assert_close(ours[:, ~KNOWN], plain[:, ~KNOWN], rtol=1e-12, atol=1e-12)
    prediction = guided(x, level)
    assert tools.residual(x, level, prediction) < 1e-12
    assert torch.equal(prediction.x0[:, KNOWN], VALUES[KNOWN].expand(6, 2))


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        ("annealed_langevin", {"steps_per_level": 30, "step_size": 5e-5}),
        ("predictor_corrector", {"corrector_steps": 30, "snr": 0.3}),
    ],
)
def test_langevin_steps_bring_a_gaussian_to_its_conditional_distribution(sampler, settings):
    """x_2 given x_1 = y: mean rho y, variance std^2 (1 - rho^2). Without corrections the mean is little more than half.

    At a level sigma the steps lead to the mean given a noisy x_1, so that the limit needs many small levels.
    """
    std, rho, y, count = 0.6, 0.8, 0.9, 1000
    covariance = std**2 * torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
    schedule = dfw.build("schedule", "ncsn", num_steps=16, sigma_min=0.02, sigma_max=3.0)
    guided = dfw.build(
        "guidance",
        "imputation",
        denoiser=CorrelatedGaussian(torch.zeros(2, dtype=torch.float64), covariance).denoiser(schedule),
        operator=Mask(torch.tensor([True, False])),
        measurement=torch.tensor([y, 0.0], dtype=torch.float64),
    )

    def sample(name, **parameters):
        noise = normal(0)
        start = 3 * noise(torch.empty(count, 2, dtype=torch.float64))
        return dfw.build("sampler", name, steps=16, **parameters)(guided, start, noise=noise)

    x = sample(sampler, **settings)
    torch.testing.assert_close(x[:, 0], torch.full((count,), y, dtype=torch.float64))
    assert x[:, 1].mean().item() == pytest.approx(rho * y, abs=0.07)
    assert x[:, 1].var().item() == pytest.approx(std**2 * (1 - rho**2), rel=0.25)
    assert sample("ddpm")[:, 1].mean() < 0.7 * rho * y


def test_a_sample_depends_on_its_seed_alone_not_on_its_batch(tools):
    """The noise of the replacement is that of the sampler, also where another guidance wraps it."""
    inner = imputed(tools)
    guided = dfw.build("guidance", "clip", denoiser=inner)
    sampler = dfw.build("sampler", "ddim", steps=5)
    state = torch.get_rng_state()
    found = [
        torch.cat([x for _, x in draw(sampler, guided, (4,), range(4), seed=seed, batch_size=size)])
        for seed, size in ((0, 4), (0, 3), (1, 4))
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)
    assert not torch.isclose(found[0], found[2])[:, ~KNOWN].any()
    _, shown, _ = frames(sampler, guided, (4,), range(4), seed=0)
    torch.testing.assert_close(shown[-1], found[0], rtol=1e-6, atol=1e-6)
    assert torch.equal(state, torch.get_rng_state())
    assert guided.seeded(torch.randn_like).denoiser.known[1] is inner.measurement


def test_every_trajectory_draws_the_noise_of_its_guidance_from_the_samplers_noise(tools):
    """Also of a sampler that hands its trajectory on to its base, as a plugin may."""

    class Handed(DDIM):
        def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
            yield from super().trajectory(denoiser, x, cond=cond, noise=noise)

    guided = imputed(tools)
    for sampler in (Handed(4), *(dfw.build("sampler", name, steps=4) for name in ("heun", "euler_maruyama", "ddpm"))):
        state = torch.get_rng_state()
        first, second, other = (
            list(sampler.trajectory(guided, tools.draw().float(), noise=normal(seed)))[-1].x for seed in (0, 0, 1)
        )
        assert torch.equal(first, second)
        assert not torch.equal(first, other)
        assert torch.equal(state, torch.get_rng_state())


def test_what_needs_one_function_refuses_a_guidance_that_draws_noise(tools):
    guided, x = imputed(tools), tools.draw().float()
    for name in ("ddim", "ode"):
        with pytest.raises(ConfigError, match="guidance=imputation"):
            dfw.build("sampler", name, steps=4).encode(guided, x)
    with pytest.raises(ConfigError, match="guidance=imputation"):
        dfw.build("sampler", "ode")(guided, x)
    with pytest.raises(ConfigError, match="guidance=imputation"):
        log_prob(dfw.build("guidance", "clip", denoiser=guided), x)


def test_a_gray_image_is_coloured_and_its_gray_values_are_kept(tmp_path):
    """The file that a user gives; the range of A^+ is the first channel of the orthonormal matrix of appendix I.3."""
    gray = np.linspace(0, 255, 4).astype(np.uint8).reshape(1, 2, 2)
    np.savez(tmp_path / "gray.npz", measurement=gray, channel_matrix=np.full((1, 3), 1 / 3))
    covariance = torch.eye(12, dtype=torch.float64) + 0.5
    denoiser = CorrelatedGaussian(torch.zeros(3, 2, 2), covariance).denoiser(dfw.build("schedule", "vp"))
    guided = dfw.build("guidance", "imputation", denoiser=denoiser, shape=(3, 2, 2), file=str(tmp_path / "gray.npz"))
    x = dfw.build("sampler", "predictor_corrector", steps=5)(
        guided, normal(0)(torch.empty(3, 3, 2, 2)), noise=SampleNoise(0, range(3))
    )
    torch.testing.assert_close(x.mean(1), (torch.from_numpy(gray).float() / 127.5 - 1).expand(3, 2, 2))
    assert x.std(1).min() > 0.01
    operator, images = ChannelMatrix(GRAY), normal(1)(torch.empty(2, 3, 2, 2, dtype=torch.float64))
    first = torch.full((3,), 3**-0.5, dtype=torch.float64)
    projected = torch.einsum("bchw,c,d->bdhw", images, first, first)
    torch.testing.assert_close(operator.pseudo_inverse(operator(images)), projected)
