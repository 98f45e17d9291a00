import pytest
import torch

from diffusion_fw.process.schedules.linear import Linear
from diffusion_fw.process.schedules.vp import VP
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.ddim import DDIM
from diffusion_fw.samplers.ddpm import DDPM
from diffusion_fw.samplers.grids.leading import Leading
from diffusion_fw.samplers.ode import ODE


@pytest.mark.parametrize("even", [True, False])
def test_order_is_1(measured_order, even):
    assert measured_order(DDIM, even=even) == pytest.approx(DDIM().order, abs=0.15)


@pytest.mark.parametrize(("steps", "error"), [(10, 0.3148), (20, 0.1657), (50, 0.0689), (100, 0.0351)])
def test_error_on_a_gaussian_is_textbook_ddims(tools, steps, error):
    """Linear table of 1000, leading spacing, data N(0, 0.5^2) from z = 2.5, against the exact map of the flow."""
    schedule = Linear()
    denoiser = tools.gaussian(schedule, std=0.5)
    x = torch.full((1, 1), 2.5, dtype=torch.float64)
    level = schedule(torch.ones((), dtype=torch.float64))
    exact = 0.5 * x / (0.25 * level.alpha**2 + level.sigma**2).sqrt()
    assert (DDIM(steps, Leading())(denoiser, x) - exact).abs().item() == pytest.approx(error, rel=2e-3)


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
