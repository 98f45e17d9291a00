import pytest
import torch

from diffusion_fw.process.schedules.continuous import VP
from diffusion_fw.process.schedules.tables import Linear
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.plms import PLMS


@pytest.mark.parametrize("begin", [1.0, 0.35])
@pytest.mark.parametrize("warm_up", ["runge_kutta", "improved_euler", "lower_order"])
def test_order_is_2_as_its_paper_proves(measured_order, warm_up, begin):
    def build(steps, grid):
        return PLMS(steps, grid, warm_up=warm_up)

    assert measured_order(build, begin=begin) == pytest.approx(build(50, None).order, abs=0.15)


@pytest.mark.parametrize(("warm_up", "evaluations"), [("runge_kutta", 29), ("improved_euler", 21), ("lower_order", 20)])
def test_the_warm_up_takes_9_evaluations_more_than_the_steps_or_1_or_none(tools, warm_up, evaluations):
    """Liu et al. 2022: three pseudo Runge-Kutta steps of 4; the improved Euler step of 2."""
    steps = PLMS(20, warm_up=warm_up).trajectory(tools.Mixture(Linear()), tools.start())
    assert sum(step.evaluations for step in steps) == evaluations


def test_a_step_is_ddims_with_the_combined_eps(tools):
    schedule, grid = VP(), tools.Interior(0.8, 0.1, even=False)
    denoiser = tools.Mixture(schedule)
    trajectory = list(PLMS(8, grid).trajectory(denoiser, tools.start()))
    levels = schedule(grid(8, schedule))
    eps = [denoiser(trajectory[i - 1].x, levels[i]).eps for i in (5, 4, 3, 2)]
    combined = (55 * eps[0] - 59 * eps[1] + 37 * eps[2] - 9 * eps[3]) / 24
    t, s = levels[5], levels[6]
    expected = s.alpha * (trajectory[4].x - t.sigma * combined) / t.alpha + s.sigma * combined
    torch.testing.assert_close(trajectory[5].x, expected, rtol=0, atol=1e-12)


def test_a_warm_up_longer_than_the_sampling_is_refused():
    with pytest.raises(ConfigError, match=r"sampler\.steps"):
        PLMS(3).check(VP())
