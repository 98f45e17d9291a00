import pytest
import torch

from diffusion_fw.process.schedules.continuous import VP
from diffusion_fw.process.schedules.tables import Linear
from diffusion_fw.samplers.ddpm import DDPM
from diffusion_fw.samplers.dpm_solver_pp import DPMSolverPP
from diffusion_fw.samplers.dpm_solver_pp_sde import DPMSolverPPSDE


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_weak_order_is_2(weak_order, eta):
    def build(steps, grid):
        return DPMSolverPPSDE(steps, grid, eta=eta)

    assert weak_order(build) == pytest.approx(2, abs=0.15)


def test_without_noise_it_is_dpm_solver_pp_2m(tools, measured_order):
    denoiser, x = tools.Mixture(Linear()), tools.start()
    sampler = DPMSolverPPSDE(20, eta=0.0)
    torch.testing.assert_close(sampler(denoiser, x), DPMSolverPP(20)(denoiser, x), rtol=0, atol=1e-10)

    def build(steps, grid):
        return DPMSolverPPSDE(steps, grid, eta=0.0)

    assert measured_order(build) == pytest.approx(sampler.order, abs=0.15)


def test_its_first_step_is_ddpms(tools):
    """With x0 held, the reverse SDE's transition is q(x_s | x_t, x0)."""
    denoiser, x, z = tools.Mixture(Linear()), tools.start(), torch.ones_like(tools.start())
    ours, ddpm = (next(sampler.trajectory(denoiser, x, noise=lambda _: z)) for sampler in (DPMSolverPPSDE(), DDPM()))
    torch.testing.assert_close(ours.x, ddpm.x, rtol=0, atol=1e-10)


def test_a_gaussian_keeps_its_mean(tools):
    denoiser = tools.gaussian(VP(), std=0.5, mean=0.8)
    mean, _ = tools.moments(DPMSolverPPSDE(200, tools.Interior(1.0, 0.02)), denoiser)
    level = VP()(torch.tensor(0.02, dtype=torch.float64))
    assert mean == pytest.approx(0.8 * level.alpha.item(), rel=1e-3)


def test_it_starts_where_there_is_no_signal(tools):
    schedule = Linear(zero_terminal_snr=True)
    assert DPMSolverPPSDE(20)(tools.Mixture(schedule), tools.start()).isfinite().all()
