import pytest
import torch

from diffusion_fw.process.schedules.continuous import VP
from diffusion_fw.process.schedules.tables import Linear
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.ddim import DDIM
from diffusion_fw.samplers.dpm_solver_pp import DPMSolverPP


@pytest.mark.parametrize("begin", [1.0, 0.35])
@pytest.mark.parametrize("singlestep", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_is_the_declared_one(measured_order, order, singlestep, begin):
    def build(steps, grid):
        return DPMSolverPP(steps, grid, order=order, singlestep=singlestep)

    assert measured_order(build, begin=begin) == pytest.approx(build(50, None).order, abs=0.15)


def test_half_the_second_difference_makes_the_third_order_formula_second_order(measured_order):
    """As the formula stands in dpm-solver, diffusers and k-diffusion."""

    def build(steps, grid):
        return DPMSolverPP(steps, grid, order=3, third_order="halved")

    assert measured_order(build) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("singlestep", [False, True])
def test_order_1_is_ddim(tools, singlestep):
    denoiser, x = tools.Mixture(Linear()), tools.start()
    result = DPMSolverPP(20, order=1, singlestep=singlestep)(denoiser, x)
    torch.testing.assert_close(result, DDIM(20)(denoiser, x), rtol=0, atol=1e-9)


def test_the_second_order_multistep_step_is_algorithm_2(tools):
    schedule, steps = VP(), 10
    denoiser, grid = tools.Mixture(schedule), tools.Interior(0.8, 0.1, even=False)
    trajectory = list(DPMSolverPP(steps, grid).trajectory(denoiser, tools.start()))
    times = grid(steps, schedule)
    u, t, s = (schedule(times[i]) for i in (3, 4, 5))
    h, h_before = (s.log_snr - t.log_snr) / 2, (t.log_snr - u.log_snr) / 2
    before, at = (denoiser(trajectory[i - 1].x, level).x0 for i, level in ((3, u), (4, t)))
    d = (1 + h / h_before / 2) * at - h / h_before / 2 * before
    expected = s.sigma / t.sigma * trajectory[3].x - s.alpha * (torch.exp(-h) - 1) * d
    torch.testing.assert_close(trajectory[4].x, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("order", "singlestep", "steps"), [(2, False, 1), (3, False, 2), (3, True, 1), (2, True, 1)])
def test_fewer_steps_than_the_order_needs_are_refused(order, singlestep, steps):
    with pytest.raises(ConfigError, match=r"sampler\.steps"):
        DPMSolverPP(steps, order=order, singlestep=singlestep).check(VP())


def test_a_multistep_solver_starts_where_there_is_no_signal(tools):
    schedule = Linear(zero_terminal_snr=True)
    sampler = DPMSolverPP(10)
    sampler.check(schedule)
    assert sampler(tools.Mixture(schedule), tools.start()).isfinite().all()


def test_a_singlestep_solver_does_not_and_says_so():
    with pytest.raises(ConfigError, match="zero_terminal_snr"):
        DPMSolverPP(10, singlestep=True).check(Linear(zero_terminal_snr=True))


@pytest.mark.parametrize(
    ("order", "evaluations", "orders"),
    [
        (3, 15, [3, 3, 3, 3, 2, 1]),
        (3, 16, [3, 3, 3, 3, 3, 1]),
        (3, 17, [3, 3, 3, 3, 3, 2]),
        (3, 3, [2, 1]),
        (2, 6, [2, 2, 2]),
        (2, 7, [2, 2, 2, 1]),
        (1, 3, [1, 1, 1]),
    ],
)
def test_a_budget_of_evaluations_has_the_orders_of_the_authors(tools, order, evaluations, orders):
    """Lu et al. 2022a, DPM-Solver-fast; on a grid that ends at clean data one evaluation more is for the last step."""
    denoiser, x = tools.Mixture(VP()), tools.start()
    for grid, extra in ((tools.Interior(1.0, 0.02), []), (tools.Clean(1.0, 0.02), [1])):
        sampler = DPMSolverPP(
            len(orders + extra), grid, order=order, singlestep=True, evaluations=evaluations + sum(extra)
        )
        assert [step.evaluations for step in sampler.trajectory(denoiser, x)] == orders + extra


def test_a_budget_that_does_not_fit_says_what_does():
    with pytest.raises(ConfigError, match=r"20 evaluations of order 3 are 8 steps; set sampler\.steps=8"):
        DPMSolverPP(7, order=3, singlestep=True, evaluations=20).check(VP())
    with pytest.raises(ConfigError, match=r"sampler\.singlestep=true"):
        DPMSolverPP(20, evaluations=20)
