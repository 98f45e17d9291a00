import pytest
import torch

from diffusion_fw.process.schedules.continuous import VE, VP
from diffusion_fw.process.schedules.tables import Linear
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.ddpm import DDPM
from diffusion_fw.samplers.grid import Explicit, Linspace
from diffusion_fw.samplers.predictor_corrector import PredictorCorrector
from diffusion_fw.samplers.reverse_diffusion import ReverseDiffusion


def replay(count, like, seed=1):
    draws = iter(torch.randn(count, *like.shape, dtype=like.dtype, generator=torch.Generator().manual_seed(seed)))
    return lambda _: next(draws)


def test_the_ancestral_predictor_is_ddpm(tools):
    denoiser, x = tools.Mixture(Linear()), tools.start()
    sampler = PredictorCorrector(20, predictor="ancestral", corrector_steps=0)
    expected = DDPM(20)(denoiser, x, noise=replay(20, x))
    torch.testing.assert_close(sampler(denoiser, x, noise=replay(20, x)), expected, rtol=0, atol=1e-9)


def test_without_corrector_it_is_its_predictor(tools):
    denoiser, x = tools.Mixture(VP()), tools.start()
    expected = ReverseDiffusion(20)(denoiser, x, noise=replay(20, x))
    result = PredictorCorrector(20, corrector_steps=0)(denoiser, x, noise=replay(20, x))
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["expected", "example", "batch"])
def test_the_corrector_is_algorithm_4(tools, norm):
    """x + size score + sqrt(2 size) z, size = 2 (snr |z| / |score|)^2, on the variance-exploding path."""
    schedule, snr = VE(sigma_max=50.0), 0.16
    denoiser, x = tools.Mixture(schedule), tools.start()
    z = 1 + tools.start()
    sampler = PredictorCorrector(3, tools.Interior(0.6, 0.3), predictor="none", snr=snr, norm=norm)
    step = next(sampler.trajectory(denoiser, x, noise=lambda _: z))
    level = schedule(torch.tensor(step.t, dtype=torch.float64))
    score = -denoiser(x, level).eps / level.sigma
    lengths = z.norm(dim=1, keepdim=True), score.norm(dim=1, keepdim=True)
    ratios = {
        "expected": level.sigma,
        "example": lengths[0] / lengths[1],
        "batch": lengths[0].mean() / lengths[1].mean(),
    }
    size = 2 * (snr * ratios[norm]) ** 2
    torch.testing.assert_close(step.x, x + size * score + (2 * size) ** 0.5 * z, rtol=1e-9, atol=1e-9)


def test_on_ddpms_path_the_size_has_the_factor_1_minus_beta(tools):
    """Song et al. 2021, algorithm 5."""
    schedule, snr = Linear(), 0.16
    denoiser, x, z = tools.Mixture(schedule), tools.start(), torch.ones_like(tools.start())
    sampler = PredictorCorrector(1000, predictor="none", snr=snr)
    step = next(sampler.trajectory(denoiser, x, noise=lambda _: z))
    level = schedule(torch.tensor(0.999, dtype=torch.float64))
    beta = 1e-4 + (0.02 - 1e-4) * 998 / 999
    size = 2 * (1 - beta) * (snr * level.sigma) ** 2
    expected = x - size / level.sigma * denoiser(x, level).eps + (2 * size) ** 0.5 * z
    torch.testing.assert_close(step.x, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("predictor", ["euler_maruyama", "reverse_diffusion", "ancestral"])
def test_a_gaussian_keeps_its_moments(tools, predictor):
    denoiser = tools.gaussian(VP(), std=0.5, mean=0.8)
    sampler = PredictorCorrector(400, tools.Interior(1.0, 0.02), predictor=predictor, snr=0.05)
    mean, variance = tools.moments(sampler, denoiser)
    level = VP()(torch.tensor(0.02, dtype=torch.float64))
    assert mean == pytest.approx(0.8 * level.alpha.item(), rel=0.02)
    assert variance == pytest.approx((0.25 * level.alpha**2 + level.sigma**2).item(), rel=0.05)


def test_the_corrector_repairs_a_coarse_predictor(tools):
    denoiser, grid = tools.gaussian(VP(), std=0.5), tools.Interior(1.0, 0.02)
    level = VP()(torch.tensor(0.02, dtype=torch.float64))
    exact = (0.25 * level.alpha**2 + level.sigma**2).item()
    errors = [
        abs(tools.moments(PredictorCorrector(30, grid, corrector_steps=count, snr=0.16), denoiser)[1] / exact - 1)
        for count in (0, 1, 4)
    ]
    assert errors[0] > 1.2 * errors[1] > 1.2**2 * errors[2]


def test_a_table_is_refused_to_the_predictor_that_needs_rates():
    with pytest.raises(ConfigError, match="schedule"):
        PredictorCorrector(20, predictor="euler_maruyama").check(Linear())


def test_neither_predictor_nor_corrector_is_refused():
    with pytest.raises(ConfigError, match="corrector_steps"):
        PredictorCorrector(20, predictor="none", corrector_steps=0)


# Song et al. 2021, table 5.
TABLE_5 = {
    "ancestral": (0.17, 0.01),
    "reverse_diffusion": (0.16, 0.01),
    "probability_flow": (0.17, 0.04),
    "none": (0.22, 0.27),
}


@pytest.mark.parametrize("predictor", TABLE_5)
@pytest.mark.parametrize("schedule", [VE(), VP()])
def test_the_signal_to_noise_of_the_corrector_is_table_5s(tools, predictor, schedule):
    wanted = TABLE_5[predictor][isinstance(schedule, VP)]
    denoiser, x = tools.Mixture(schedule), tools.start()
    auto, given = (
        PredictorCorrector(3, predictor=predictor, **setting)(denoiser, x, noise=replay(6, x))
        for setting in ({}, {"snr": wanted})
    )
    assert torch.equal(auto, given)


def test_the_probability_flow_predictor_is_reverse_diffusion_with_half_the_score_and_no_noise(tools):
    """x_i = (2 - sqrt(1 - beta)) x + beta score / 2 (Song et al. 2021, equation 47)."""
    schedule = Linear()
    denoiser, x = tools.Mixture(schedule), tools.start()
    beta = 1e-4 + (0.02 - 1e-4) * 499 / 999
    level = schedule(torch.tensor(0.5, dtype=torch.float64))
    score = -denoiser(x, level).eps / level.sigma
    sampler = PredictorCorrector(2, Explicit((0.5, 0.499)), predictor="probability_flow", corrector_steps=0)
    step = next(sampler.trajectory(denoiser, x))
    torch.testing.assert_close(step.x, (2 - (1 - beta) ** 0.5) * x + beta * score / 2, rtol=1e-9, atol=1e-9)
    assert not sampler.stochastic
    assert PredictorCorrector(2, predictor="probability_flow").stochastic


def test_twice_as_many_steps_as_a_table_has_rows(tools):
    """P2000 of table 1, on a smaller table: a Gaussian's variance comes closer than with a step for each row."""
    schedule = Linear(num_steps=100)
    errors = []
    for steps in (100, 200):
        sampler = ReverseDiffusion(steps, Linspace(interpolate=True))
        errors.append(abs(tools.moments(sampler, tools.gaussian(schedule, std=0.5))[1] / 0.25 - 1))
    assert errors[1] < errors[0]
    with pytest.raises(ConfigError, match="steps"):
        ReverseDiffusion(200, Linspace()).check(schedule)
