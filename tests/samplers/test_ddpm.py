"""Ancestral sampling against the exact mean and variance of a linear recursion: no sampling error anywhere."""

from __future__ import annotations

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.noise import SampleNoise
from diffusion_fw.process.schedules.tables import Cosine, Linear
from diffusion_fw.samplers.ddpm import DDPM
from diffusion_fw.samplers.grid import Respaced, Uniform


class Impulses:
    """Draw i is 1 for example i and 0 for all others."""

    def __init__(self):
        self.draws = 0

    def __call__(self, like):
        z = torch.zeros_like(like)
        z[self.draws] = 1
        self.draws += 1
        return z


def moments(sampler, schedule, mean, std):
    """Mean and variance of x after every step, from the exact marginal of x_T, for data N(mean, std^2).

    Each x is affine in x_T and the draws. Example i has draw i alone, the last but one has a start one standard
    deviation off, the last has neither: the responses' squares add up to the variance.
    """
    data = dfw.oracles.Gaussian(torch.full((1,), mean), std)
    last = data.marginal(schedule(sampler.grid(sampler.steps, schedule)[0]))
    x = last.mean.expand(sampler.steps + 1, 1).clone()
    x[-2] += last.stds[0]
    noise, found = Impulses(), []
    for step in sampler.trajectory(data.denoiser(schedule), x, noise=noise):
        *responses, centre = step.x[:, 0].tolist()
        found.append((centre, sum((response - centre) ** 2 for response in responses)))
    assert noise.draws == sampler.steps - 1
    return found


def recursion(alpha_bars, mean, std, large):
    """The same moments by Ho et al. 2020, algorithm 2 and equation 11, in betas of the kept rows, noise to data."""
    centre, variance = alpha_bars[0] ** 0.5 * mean, alpha_bars[0] * std**2 + 1 - alpha_bars[0]
    found = []
    for ab, before in zip(alpha_bars, [*alpha_bars[1:], 1.0], strict=True):
        beta = 1 - ab / before
        # E[eps | x_t] = sqrt(1 - ab) (x_t - sqrt(ab) mean) / Var[x_t].
        slope = (1 - ab) ** 0.5 / (ab * std**2 + 1 - ab)
        rate = (1 - beta / (1 - ab) ** 0.5 * slope) / (1 - beta) ** 0.5
        shift = beta / (1 - ab) ** 0.5 * slope * ab**0.5 * mean / (1 - beta) ** 0.5
        added = 0.0 if before == 1 else (beta if large else beta * (1 - before) / (1 - ab))
        centre, variance = rate * centre + shift, rate**2 * variance + added
        found.append((centre, variance))
    return found


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=["linear", "cosine"])
@pytest.mark.parametrize(("steps", "grid"), [(1000, Uniform()), (50, Respaced()), (10, Uniform())])
def test_every_step_has_the_mean_and_variance_of_ddpms_recursion(schedule, steps, grid, variance):
    rows = (grid(steps, schedule)[:-1] * schedule.num_steps).round().long()
    alpha_bars = (1 - schedule.betas()).cumprod(0)[rows - 1].tolist()
    found = moments(DDPM(steps, grid, dfw.build("variance", variance)), schedule, 0.7, 0.5)
    expected = recursion(alpha_bars, 0.7, 0.5, variance == "large")
    assert torch.allclose(torch.tensor(found).double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-6)
    assert found[-1] == pytest.approx(expected[-1], rel=1e-7)


@pytest.mark.parametrize("steps", [5, 50])
@pytest.mark.parametrize(("variance", "std"), [("small", 0.0), ("large", 1.0)])
def test_each_variance_is_exact_for_the_data_it_is_optimal_for(variance, std, steps):
    """Ho et al. 2020, section 3.2: large for x_0 ~ N(0, I), small for one point. Then every x_s is the marginal's."""
    schedule, data = Linear(), dfw.oracles.Gaussian(torch.full((1,), 0.0 if std else 0.7), std)
    sampler = DDPM(steps, variance=dfw.build("variance", variance))
    levels = sampler.levels(schedule)
    for (mean, spread), level in zip(
        moments(sampler, schedule, float(data.mean), std)[:-1], levels.unbind()[1:-1], strict=True
    ):
        marginal = data.marginal(level)
        assert mean == pytest.approx(float(marginal.mean), abs=1e-12)
        assert spread == pytest.approx(float(marginal.stds[0] ** 2), rel=1e-10)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_with_all_steps_the_data_is_reached(variance):
    mean, spread = moments(DDPM(1000, variance=dfw.build("variance", variance)), Linear(), 0.7, 0.5)[-1]
    assert mean == pytest.approx(0.7, abs=1e-3)
    assert spread == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_keeps_its_precision_and_does_not_depend_on_its_batch(dtype):
    denoiser = dfw.oracles.Gaussian(torch.zeros(3, 4, 4), 0.5).denoiser(Linear())
    x = SampleNoise(0, range(6))(torch.empty(6, 3, 4, 4, dtype=dtype))
    together = DDPM(20)(denoiser, x, noise=SampleNoise(1, range(6)))
    alone = DDPM(20)(denoiser, x[2:3], noise=SampleNoise(1, [2]))
    assert together.dtype == dtype
    torch.testing.assert_close(alone, together[2:3], rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-6)
