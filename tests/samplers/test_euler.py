import pytest
import torch

from diffusion_fw.process.schedules.continuous import Flow
from diffusion_fw.process.schedules.tables import Linear
from diffusion_fw.samplers.ddim import DDIM
from diffusion_fw.samplers.euler import Euler


@pytest.mark.parametrize("even", [True, False])
def test_order_is_1(measured_order, even):
    assert measured_order(Euler, even=even) == pytest.approx(Euler().order, abs=0.15)


def test_is_ddim_without_noise(tools):
    denoiser, x = tools.Mixture(Linear()), tools.start()
    torch.testing.assert_close(Euler(20)(denoiser, x), DDIM(20)(denoiser, x), rtol=0, atol=1e-9)


def test_on_the_flow_path_a_step_is_dt_times_eps_minus_x0(tools):
    denoiser, x = tools.Mixture(Flow()), tools.start()
    level = Flow()(torch.tensor(0.75, dtype=torch.float64))
    prediction = denoiser(x, level)
    step = next(Euler(25, tools.Interior(0.75, 0.25)).trajectory(denoiser, x))
    expected = x + (step.t - 0.75) * (prediction.eps - prediction.x0)
    torch.testing.assert_close(step.x, expected, rtol=0, atol=1e-12)
