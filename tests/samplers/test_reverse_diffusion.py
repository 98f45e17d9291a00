import pytest
import torch

from diffusion_fw.process.schedules.tables import NCSN, Linear
from diffusion_fw.samplers.grid import Explicit
from diffusion_fw.samplers.reverse_diffusion import ReverseDiffusion


def test_weak_order_is_1(weak_order):
    assert weak_order(ReverseDiffusion) == pytest.approx(1, abs=0.15)


def test_on_ddpms_table_it_is_algorithm_3(tools):
    """x_i = (2 - sqrt(1 - beta)) x + beta score + sqrt(beta) z (Song et al. 2021, algorithm 3)."""
    schedule = Linear()
    denoiser, x, z = tools.Mixture(schedule), tools.start(), torch.ones_like(tools.start())
    beta = 1e-4 + (0.02 - 1e-4) * 499 / 999
    level = schedule(torch.tensor(0.5, dtype=torch.float64))
    score = -denoiser(x, level).eps / level.sigma
    expected = (2 - (1 - beta) ** 0.5) * x + beta * score + beta**0.5 * z
    step = next(ReverseDiffusion(2, Explicit((0.5, 0.499))).trajectory(denoiser, x, noise=lambda _: z))
    torch.testing.assert_close(step.x, expected, rtol=1e-9, atol=1e-9)


def test_on_the_variance_exploding_table_it_is_algorithm_2(tools):
    """x_i = x + (sigma'^2 - sigma^2) score + sqrt(sigma'^2 - sigma^2) z (Song et al. 2021, algorithm 2)."""
    schedule = NCSN(num_steps=10, sigma_min=0.01, sigma_max=1.0)
    denoiser, x, z = tools.Mixture(schedule), tools.start(), torch.ones_like(tools.start())
    high, low = schedule(torch.tensor([0.8, 0.7], dtype=torch.float64)).unbind()
    variance = high.sigma**2 - low.sigma**2
    expected = x - variance / high.sigma * denoiser(x, high).eps + variance.sqrt() * z
    step = next(ReverseDiffusion(2, Explicit((0.8, 0.7))).trajectory(denoiser, x, noise=lambda _: z))
    torch.testing.assert_close(step.x, expected, rtol=1e-9, atol=1e-9)
