import pytest
import torch

from diffusion_fw.process.schedules.continuous import EDM, VP
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.grid import Karras
from diffusion_fw.samplers.heun import Heun
from diffusion_fw.samplers.restart import Restart


def test_the_cifar_setting_takes_the_papers_43_evaluations(tools):
    """Xu et al. 2023: 35 of the main process of 18 steps, and 2 K (N_restart - 1) = 8 for [3, 2, 0.14, 0.30]."""
    steps = Restart(18, Karras()).trajectory(tools.Mixture(EDM()), 80 * tools.start())
    assert sum(step.evaluations for step in steps) == 43


def test_without_a_restart_it_is_heun(tools):
    denoiser, x = tools.Mixture(VP()), tools.start()
    torch.testing.assert_close(Restart(20, intervals=())(denoiser, x), Heun(20)(denoiser, x), rtol=0, atol=0)


def test_noise_is_added_from_rho_min_to_rho_max():
    """x + sqrt(rho_max^2 - rho_min^2) z on the path with alpha = 1 (Xu et al. 2023, algorithm 1)."""
    schedule, high = EDM(), 0.3
    plan = Restart(18, Karras(), intervals=((3, 1, 0.14, high),)).plan(schedule)
    (restart,) = (step for step in plan if step.churn > 0)
    low = 0.139516469
    assert restart.scale == 1
    assert restart.churn == pytest.approx((high**2 - low**2) ** 0.5, rel=1e-6)
    assert restart.stages[0].level.sigma.item() == pytest.approx(high, rel=1e-9)


def test_a_gaussian_keeps_its_moments(tools):
    denoiser = tools.gaussian(VP(), std=0.5, mean=0.8)
    sampler = Restart(200, tools.Interior(1.0, 0.02), intervals=((20, 3, 0.2, 1.0), (20, 2, 0.1, 0.3)))
    mean, variance = tools.moments(sampler, denoiser)
    level = VP()(torch.tensor(0.02, dtype=torch.float64))
    assert mean == pytest.approx(0.8 * level.alpha.item(), rel=2e-3)
    assert variance == pytest.approx((0.25 * level.alpha**2 + level.sigma**2).item(), rel=5e-3)


def test_a_restart_forgets_a_wrong_beginning(tools):
    """Added noise contracts an error that the deterministic part would carry to the end (Xu et al. 2023, theorem 1)."""
    denoiser, wrong = tools.gaussian(VP(), std=0.5), torch.full((1, 1), 30.0, dtype=torch.float64)

    def zeros(like):
        return torch.zeros_like(like)

    plain = Heun(50)(denoiser, wrong).abs().item()
    restarted = Restart(50, intervals=((10, 5, 0.5, 5.0),))(denoiser, wrong, noise=zeros).abs().item()
    assert restarted < 0.1 * plain


def test_an_interval_outside_the_levels_is_refused():
    with pytest.raises(ConfigError, match=r"sampler\.intervals"):
        Restart(18, Karras(), intervals=((3, 1, 0.14, 100.0),)).check(EDM())
