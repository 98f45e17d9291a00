import pytest
import torch

from diffusion_fw.process.schedules.continuous import EDM, VP
from diffusion_fw.process.schedules.tables import Linear
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.edm_stochastic import EDMStochastic
from diffusion_fw.samplers.grid import Karras
from diffusion_fw.samplers.heun import Heun


def test_without_churn_it_is_heun(tools, measured_order):
    denoiser, x = tools.Mixture(VP()), tools.start()
    sampler = EDMStochastic(20, s_churn=0.0)
    assert not sampler.stochastic
    torch.testing.assert_close(sampler(denoiser, x), Heun(20)(denoiser, x), rtol=0, atol=0)

    def build(steps, grid):
        return EDMStochastic(steps, grid, s_churn=0.0)

    assert measured_order(build) == pytest.approx(sampler.order, abs=0.15)


def test_a_step_is_algorithm_2(tools):
    """Karras et al. 2022: churn to t_hat = t + gamma t, Euler to the next t, Heun's correction."""
    schedule, steps = EDM(), 18
    denoiser, x, z = tools.Mixture(schedule), 3 * tools.start(), torch.ones_like(tools.start())
    sampler = EDMStochastic(steps, Karras(), s_churn=10.0, s_tmin=0.0, s_tmax=1000.0, s_noise=1.007)
    trajectory = list(sampler.trajectory(denoiser, x, noise=lambda _: z))
    t, s = (schedule(torch.tensor(trajectory[i].t, dtype=torch.float64)).sigma for i in (6, 7))
    t_hat = t + 10 / steps * t if 10 / steps < 2**0.5 - 1 else 2**0.5 * t
    x_hat = trajectory[6].x + (t_hat**2 - t**2).sqrt() * 1.007 * z
    slope = denoiser(x_hat, schedule(schedule.time(-2 * t_hat.log()))).eps
    euler = x_hat + (s - t_hat) * slope
    corrected = denoiser(euler, schedule(schedule.time(-2 * s.log()))).eps
    expected = x_hat + (s - t_hat) * (slope + corrected) / 2
    torch.testing.assert_close(trajectory[7].x, expected, rtol=1e-8, atol=1e-8)


def test_noise_is_raised_only_between_s_tmin_and_s_tmax():
    schedule = EDM()
    plan = EDMStochastic(18, Karras(), s_churn=40.0, s_tmin=0.05, s_tmax=50.0).plan(schedule)
    sigma = schedule(Karras()(18, schedule)).sigma[:-1]
    assert [step.churn > 0 for step in plan] == ((sigma >= 0.05) & (sigma <= 50)).tolist()


def test_a_table_is_asked_at_its_rows_alone():
    schedule = Linear()
    for step in EDMStochastic(50).plan(schedule):
        position = step.stages[0].level.t.item() * 1000
        assert position == pytest.approx(round(position), abs=1e-9)


def test_a_gaussian_keeps_its_moments(tools):
    denoiser = tools.gaussian(VP(), std=0.5, mean=0.8)
    sampler = EDMStochastic(200, tools.Interior(1.0, 0.02), s_noise=1.0, s_tmin=0.1)
    mean, variance = tools.moments(sampler, denoiser)
    level = VP()(torch.tensor(0.02, dtype=torch.float64))
    assert mean == pytest.approx(0.8 * level.alpha.item(), rel=0.01)
    assert variance == pytest.approx((0.25 * level.alpha**2 + level.sigma**2).item(), rel=0.01)


def test_an_empty_range_is_refused():
    with pytest.raises(ConfigError, match=r"sampler\.s_tmax"):
        EDMStochastic(s_tmin=1.0, s_tmax=0.5)
