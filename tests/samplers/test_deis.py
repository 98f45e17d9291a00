import pytest
import torch

from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.process.schedules.continuous import VP, Flow
from diffusion_fw.process.schedules.tables import Linear
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.ddim import DDIM
from diffusion_fw.samplers.deis import DEIS


@pytest.mark.parametrize("begin", [1.0, 0.35])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_order_is_the_declared_one(measured_order, order, begin):
    def build(steps, grid):
        return DEIS(steps, grid, order=order)

    assert measured_order(build, (256, 512, 1024), begin=begin) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("order", [2, 3])
def test_extrapolating_in_log_rho_has_the_same_order(measured_order, order):
    def build(steps, grid):
        return DEIS(steps, grid, order=order, extrapolation="log_rho")

    assert measured_order(build, begin=0.35) == pytest.approx(order, abs=0.15)


def test_order_1_is_ddim(tools):
    denoiser, x = tools.Mixture(Linear()), tools.start()
    torch.testing.assert_close(DEIS(20, order=1)(denoiser, x), DDIM(20)(denoiser, x), rtol=0, atol=1e-9)


def test_an_eps_linear_in_t_is_integrated_exactly(tools):
    """On the flow path rho = t / (1 - t), so that int t d rho = rho - log(1 + rho)."""

    class InTime:
        schedule = Flow()

        def __call__(self, x, level, cond=None):
            eps = torch.full_like(x, level.t.item())
            return Prediction((x - level.sigma * eps) / level.alpha, eps)

    grid = tools.Interior(0.8, 0.1)
    x = torch.zeros(1, 1, dtype=torch.float64)
    # The first step is Euler's: begin to count after it.
    first, *_, last = DEIS(6, grid, order=2).trajectory(InTime(), x)

    def integral(t):
        rho = t / (1 - t)
        return rho - torch.log1p(torch.tensor(rho, dtype=torch.float64)).item()

    expected = first.x.item() / (1 - first.t) + integral(last.t) - integral(first.t)
    assert last.x.item() / (1 - last.t) == pytest.approx(expected, rel=1e-10)


def test_fewer_steps_than_the_order_are_refused():
    with pytest.raises(ConfigError, match=r"sampler\.steps"):
        DEIS(2, order=3).check(VP())
