import math
from dataclasses import dataclass

import pytest
import torch

from diffusion_fw.process.schedule import Schedule
from diffusion_fw.process.schedules.continuous import EDM, Flow
from diffusion_fw.samplers.grid import Grid, Karras
from diffusion_fw.samplers.heun import Heun
from diffusion_fw.samplers.ode import ODE


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


@dataclass(frozen=True)
class Even(Grid):
    """Times equidistant from 1 to 0.1."""

    def noisy_times(self, steps: int, schedule: Schedule) -> torch.Tensor:
        return torch.linspace(1, 0.1, steps + 1, dtype=torch.float64)

    def __call__(self, steps: int, schedule: Schedule) -> torch.Tensor:
        return self.noisy_times(steps, schedule)


def test_order_is_2_from_a_level_without_signal(tools):
    """On the flow path alpha = 0 at t = 1, and the first step is Euler's."""
    denoiser, x = tools.Mixture(Flow()), tools.start()
    exact = next(ODE(1, Even(), atol=1e-11, rtol=1e-11).trajectory(denoiser, x)).x
    errors = [(Heun(steps, Even())(denoiser, x) - exact).abs().max().item() for steps in (64, 128)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)
