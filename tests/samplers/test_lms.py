import pytest
import torch

from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.process.schedules.continuous import EDM
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.grid import Explicit
from diffusion_fw.samplers.lms import LMS


@pytest.mark.parametrize("begin", [1.0, 0.35])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_order_is_the_declared_one(measured_order, order, begin):
    def build(steps, grid):
        return LMS(steps, grid, order=order)

    assert measured_order(build, (128, 256, 512), begin=begin) == pytest.approx(order, abs=0.15)


def test_starting_with_eulers_step_leaves_order_2(measured_order):
    def build(steps, grid):
        return LMS(steps, grid, order=4, warm_up="lower_order")

    assert measured_order(build, (128, 256, 512), begin=0.35) == pytest.approx(2, abs=0.15)


def equal_steps(schedule, count):
    """Times whose sigma is count, count - 1, .., 1, then 0."""
    sigma = torch.arange(count, 0, -1, dtype=torch.float64)
    return Explicit(tuple(schedule.time(-2 * sigma.log()).tolist()))


def test_equal_steps_give_the_classical_adams_bashforth_weights():
    schedule = EDM()
    plan = LMS(8, equal_steps(schedule, 8), order=4).plan(schedule)
    assert plan[5].stages[0].c_x == 1
    assert [-24 * weight for weight in plan[5].stages[0].weights] == pytest.approx([55, -59, 37, -9], rel=1e-6)


def test_a_cubic_in_sigma_is_integrated_exactly():
    """x - sigma^4 / 4 is constant along dx/dsigma = sigma^3, down to sigma = 0, once four predictions are known."""

    class Cubic:
        schedule = EDM()

        def __call__(self, x, level, cond=None):
            eps = torch.full_like(x, level.sigma.item() ** 3)
            return Prediction(x - level.sigma * eps, eps)

    x = torch.zeros(1, 1, dtype=torch.float64)
    steps = list(LMS(8, equal_steps(EDM(), 8), order=4).trajectory(Cubic(), x))
    assert steps[-1].x.item() == pytest.approx(steps[2].x.item() - 5**4 / 4, rel=1e-6)


def test_fewer_steps_than_the_order_are_refused():
    with pytest.raises(ConfigError, match=r"sampler\.steps"):
        LMS(3, order=4).check(EDM())
