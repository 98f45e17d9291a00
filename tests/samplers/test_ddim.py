import pytest
import torch

from diffusion_fw.process.schedules.continuous import VP
from diffusion_fw.process.schedules.tables import Linear
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.ddim import DDIM
from diffusion_fw.samplers.ddpm import DDPM
from diffusion_fw.samplers.grid import Leading, Uniform
from diffusion_fw.samplers.ode import ODE


@pytest.mark.parametrize("even", [True, False])
def test_order_is_1(measured_order, even):
    assert measured_order(DDIM, even=even) == pytest.approx(DDIM().order, abs=0.15)


TEXTBOOK = {
    Leading: {10: 0.3148, 20: 0.1657, 50: 0.0689, 100: 0.0351},
    Uniform: {10: 0.3251, 20: 0.1716, 50: 0.0715, 100: 0.0364},
}


@pytest.mark.parametrize("steps", [10, 20, 50, 100])
@pytest.mark.parametrize("grid", TEXTBOOK)
def test_error_on_a_gaussian_is_textbook_ddims(tools, grid, steps):
    """Linear table of 1000, data N(0, 0.5^2), from 2.5 at the grid's first time, against the exact map from there.

    Figures of DDIM's equation 12 in float64, to all four digits; with spacing "leading" the first time is below 1.
    """
    schedule = Linear()
    x = torch.full((1, 1), 2.5, dtype=torch.float64)
    level = schedule(grid()(steps, schedule)[0])
    exact = 0.5 * x / (0.25 * level.alpha**2 + level.sigma**2).sqrt()
    found = DDIM(steps, grid())(tools.gaussian(schedule, std=0.5), x)
    assert (found - exact).abs().item() == pytest.approx(TEXTBOOK[grid][steps], abs=5e-5)


def test_eta_1_is_ddpm(tools):
    denoiser, x = tools.Mixture(Linear()), tools.start()
    draws = torch.randn(20, *x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    first, second = iter(draws), iter(draws)
    ddim = DDIM(20, eta=1.0)(denoiser, x, noise=lambda _: next(first))
    ddpm = DDPM(20)(denoiser, x, noise=lambda _: next(second))
    torch.testing.assert_close(ddim, ddpm, rtol=0, atol=1e-9)


def test_encoding_is_undone_by_sampling_to_first_order(tools):
    denoiser = tools.Mixture(VP())
    x = denoiser.means + 0.1
    errors = []
    for steps in (40, 80, 160):
        sampler = DDIM(steps, tools.Clean(1.0, 1e-3))
        errors.append((sampler(denoiser, sampler.encode(denoiser, x)) - x).abs().max().item())
    assert errors[0] < 0.2
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]


def test_encoding_approaches_the_exact_flow(tools):
    denoiser = tools.Mixture(VP())
    x = denoiser.means + 0.1
    encoded = DDIM(200, tools.Clean(1.0, 1e-3)).encode(denoiser, x)
    torch.testing.assert_close(encoded, ODE().encode(denoiser, x), rtol=0, atol=0.05)


def test_a_stochastic_sampler_does_not_encode(tools):
    with pytest.raises(ConfigError, match=r"sampler\.eta"):
        DDIM(10, eta=0.5).encode(tools.Mixture(VP()), tools.start())
