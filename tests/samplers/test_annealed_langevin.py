import pytest
import torch

from diffusion_fw.process.schedules.continuous import VP
from diffusion_fw.process.schedules.tables import NCSN, Linear
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.annealed_langevin import AnnealedLangevin, fitting_step

NCSN_V1 = NCSN(num_steps=10, sigma_min=0.01, sigma_max=1.0)


def test_the_step_sizes_are_ncsns(tools):
    """alpha_i = 2e-5 sigma_i^2 / sigma_L^2 = 0.2 .. 2e-5 for its ten levels (Song and Ermon 2019, section 5)."""
    denoiser, x, z = tools.Mixture(NCSN_V1), tools.start(), torch.ones_like(tools.start())
    sampler = AnnealedLangevin(10, steps_per_level=1, step_size=2e-5)
    steps = list(sampler.trajectory(denoiser, x, noise=lambda _: z))
    for level, size, before, after in (
        (NCSN_V1.table[10], 0.2, x, steps[0].x),
        (NCSN_V1.table[5], 0.2 * 0.07742637**2, steps[4].x, steps[5].x),
    ):
        score = -denoiser(before, level).eps / level.sigma
        torch.testing.assert_close(after, before + size * score + (2 * size) ** 0.5 * z, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("schedule", [NCSN_V1, VP()], ids=["ncsn", "vp"])
def test_a_gaussians_variance_follows_that_of_the_chain(tools, schedule):
    """y' = y - a (y - mean) / v + sqrt(2 a) z on N(mean, v), v = s^2 + sigma^2: var' = (1 - a / v)^2 var + 2 a."""
    denoiser, grid = tools.gaussian(schedule, std=0.05, mean=0.3), tools.Clean(1.0, 0.1)
    levels = AnnealedLangevin(10, grid).levels(schedule)
    sigma = (levels.sigma / levels.alpha)[:-1].tolist()
    step_size, expected = 0.2 * sigma[-1] ** 2, 1 / levels.alpha[0].item() ** 2
    for level in sigma:
        size, v = 0.2 * level**2, 0.05**2 + level**2
        for _ in range(20):
            expected = (1 - size / v) ** 2 * expected + 2 * size
    sampler = AnnealedLangevin(10, grid, steps_per_level=20, step_size=step_size, denoise=False)
    _, variance = tools.moments(sampler, denoiser)
    assert variance == pytest.approx(expected, rel=1e-6)


def test_denoising_takes_away_the_last_levels_noise(tools):
    denoiser = tools.Mixture(NCSN_V1)
    *_, last = AnnealedLangevin(10, steps_per_level=2).trajectory(denoiser, tools.start())
    torch.testing.assert_close(last.x, last.x0)
    assert last.evaluations == 3


def test_technique_4_finds_ncsnv2s_step_size():
    """Song and Ermon 2020: 6.2e-6 for CIFAR-10, sigma 50 .. 0.01 in 232 levels, 5 steps a level."""
    growth = (50 / 0.01) ** (2 / 231)
    assert fitting_step(growth, 5) * 0.01**2 == pytest.approx(6.2e-6, rel=0.01)


@pytest.mark.parametrize("steps", [1, 5, 40])
@pytest.mark.parametrize("growth", [1.08, 1.5])
def test_the_fitting_step_ends_a_level_nearest_to_its_variance(growth, steps):
    """Song and Ermon 2020, proposition 3, by its recursion var' = (1 - eta)^2 var + 2 eta from var = growth."""

    def excess(eta):
        variance = growth
        for _ in range(steps):
            variance = (1 - eta) ** 2 * variance + 2 * eta
        return abs(variance - 1)

    best = fitting_step(growth, steps)
    assert best == pytest.approx(min((index / 1000 for index in range(1, 1000)), key=excess), abs=1e-3)


def test_steps_that_diverge_are_refused():
    with pytest.raises(ConfigError, match=r"sampler\.step_size"):
        AnnealedLangevin(10, step_size=3e-4).check(NCSN_V1)


def test_a_level_without_signal_is_refused():
    with pytest.raises(ConfigError, match="alpha=0"):
        AnnealedLangevin(10).check(Linear(zero_terminal_snr=True))
