import pytest
import torch

from diffusion_fw.process.schedules.edm import EDM
from diffusion_fw.samplers.grids.karras import Karras
from diffusion_fw.samplers.heun import Heun


@pytest.mark.parametrize("even", [True, False])
def test_order_is_2(measured_order, even):
    assert measured_order(Heun, even=even) == pytest.approx(Heun().order, abs=0.15)


@pytest.mark.parametrize(
    ("steps", "error"), [(8, 0.4925), (16, 0.09022), (18, 0.06909), (32, 0.01962), (64, 0.004578), (128, 0.001100)]
)
def test_error_on_a_gaussian_is_that_of_edms_own_code(tools, steps, error):
    """Algorithm 1 of NVlabs/edm run on data N(0, 0.5^2) from x = 80 z, z = 2.5, sigma from 80 to 0.002, then 0."""
    schedule = EDM()
    denoiser = tools.gaussian(schedule, std=0.5)
    x = torch.full((1, 1), 2.5 * 80, dtype=torch.float64)
    exact = 0.5 * x / (0.25 + 80**2) ** 0.5
    result = Heun(steps, Karras())(denoiser, x)
    assert (result - exact).abs().item() == pytest.approx(error, rel=1e-3)


def test_n_steps_take_2n_minus_1_evaluations(tools):
    """35 evaluations at 18 steps (Karras et al. 2022, table 2)."""
    steps = Heun(18).trajectory(tools.Mixture(EDM()), 80 * tools.start())
    assert sum(step.evaluations for step in steps) == 35
