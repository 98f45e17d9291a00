"""Runge-Kutta methods in the path's own time: those of EDM's ablation and of flow matching."""

import math

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.process.schedules.continuous import EDM, VP, Flow
from diffusion_fw.process.schedules.tables import Cosine, Linear
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.grid import Explicit, LevelsOf, LogSNR, Uniform
from diffusion_fw.samplers.heun import Heun
from diffusion_fw.samplers.path_time import PathTime


@pytest.mark.parametrize("settings", [{"order": 1}, {}, {"alpha": 0.5}])
def test_the_order_is_the_declared_one(measured_order, settings):
    found = measured_order(lambda steps, grid: PathTime(steps, grid, **settings))
    assert found == pytest.approx(PathTime(**settings).order, abs=0.15)


def vp(t):
    """sigma, its derivative, s and its derivative (Karras et al. 2022, table 1, column VP)."""
    exponent, slope = 19.9 / 2 * t**2 + 0.1 * t, 19.9 * t + 0.1
    sigma = math.sqrt(math.exp(exponent) - 1)
    return (
        sigma,
        slope * math.exp(exponent) / (2 * sigma),
        math.exp(-exponent / 2),
        -slope / 2 * math.exp(-exponent / 2),
    )


def root(t):
    """Column VE with sigma(t) = sqrt(t), for t in units of sigma_max^2 = 9."""
    return 3 * math.sqrt(t), 3 / (2 * math.sqrt(t)), 1.0, 0.0


@pytest.mark.parametrize(("schedule", "curve"), [(VP(), vp), (EDM(sigma_min=0.1, sigma_max=3.0, power=0.5), root)])
@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.7])
def test_a_step_is_that_of_equation_4_with_sigma_and_s_of_table_1(tools, schedule, curve, alpha):
    """dx/dt = (sigma' / sigma + s' / s) x - sigma' s / sigma D(x / s; sigma), and their second-order step."""
    denoiser, x, times = tools.Mixture(schedule), tools.start(), (0.8, 0.5)

    def slope(x, t):
        sigma, d_sigma, s, d_s = curve(t)
        x0 = denoiser(x, schedule(torch.tensor(t, dtype=torch.float64))).x0
        return (d_sigma / sigma + d_s / s) * x - d_sigma * s / sigma * x0

    h = times[1] - times[0]
    first = slope(x, times[0])
    second = slope(x + alpha * h * first, times[0] + alpha * h)
    step = next(PathTime(2, Explicit(times), alpha=alpha).trajectory(denoiser, x))
    expected = x + h * ((1 - 1 / (2 * alpha)) * first + second / (2 * alpha))
    torch.testing.assert_close(step.x, expected, rtol=1e-11, atol=1e-11)
    euler = next(PathTime(2, Explicit(times), order=1).trajectory(denoiser, x))
    torch.testing.assert_close(euler.x, x + h * first, rtol=1e-11, atol=1e-11)


def test_on_the_straight_path_the_midpoint_method_is_flow_matchings(tools):
    """x' = x + h v(x + h v(x, t) / 2, t + h / 2), v = eps - x_0 (Lipman et al. 2023), from pure noise at t = 1 on."""
    denoiser, x, steps = tools.Mixture(Flow()), tools.start(), 4
    for index, step in enumerate(PathTime(steps, Uniform(), alpha=0.5).trajectory(denoiser, x)):
        t, h = 1 - index / steps, -1 / steps

        def velocity(x, t):
            prediction = denoiser(x, Flow()(torch.tensor(t, dtype=torch.float64)))
            return prediction.eps - prediction.x0

        last = index == steps - 1
        x = x + h * (velocity(x, t) if last else velocity(x + h / 2 * velocity(x, t), t + h / 2))
        torch.testing.assert_close(step.x, x, rtol=1e-9, atol=1e-9)
        assert step.evaluations == 2 - last


def test_in_the_time_of_edm_heuns_method_is_that_of_rho(tools):
    denoiser, x = tools.Mixture(EDM()), 80 * tools.start()
    found, expected = (sampler(denoiser, x) for sampler in (PathTime(18, LogSNR()), Heun(18, LogSNR())))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_last_step_of_a_square_root_removes_half_of_the_noise(tools):
    """h sigma'(t) = -sigma / 2 for sigma = sqrt(t), s = 1: x_0 = (x + D) / 2."""
    schedule = EDM(sigma_max=2.0, power=0.5)
    denoiser, x = tools.Mixture(schedule), tools.start()
    (step,) = PathTime(1, Uniform()).trajectory(denoiser, x)
    torch.testing.assert_close(step.x, (x + step.x0) / 2)


def test_a_table_is_refused():
    with pytest.raises(ConfigError, match="schedule"):
        PathTime(5).check(Linear())


# The time steps of table 1.


def test_the_levels_of_vp_are_even_in_its_time():
    largest = math.exp(-VP()(torch.ones((), dtype=torch.float64)).log_snr.item() / 2)
    schedule = EDM(sigma_max=largest)
    sigma = schedule(LevelsOf()(18, schedule)).sigma[:-1]
    expected = [vp(1 + j / 17 * (1e-3 - 1))[0] for j in range(18)]
    assert sigma.tolist() == pytest.approx(expected, rel=1e-9)


def test_the_levels_of_iddpm_are_even_rows_of_the_cosine_table():
    """u_j of table 1, with C_1 = 0.001 and C_2 = 0.008, by its recursion; the largest below 81 is that of j = 1."""

    def alpha_bar(j):
        return math.sin(math.pi / 2 * j / 1000 / 1.008) ** 2

    u = [0.0] * 1001
    for j in range(1000, 0, -1):
        u[j - 1] = math.sqrt((u[j] ** 2 + 1) / max(alpha_bar(j - 1) / alpha_bar(j), 0.001) - 1)
    below = [value for value in u if 0.002 <= value <= 81]
    schedule = EDM(sigma_min=0.001, sigma_max=below[0])
    sigma = schedule(LevelsOf("cosine")(18, schedule)).sigma[:-1]
    expected = [below[round((len(below) - 1) / 17 * i)] for i in range(18)]
    assert sigma.tolist() == pytest.approx(expected, rel=1e-7)
    own = LevelsOf("cosine")(50, Cosine())
    torch.testing.assert_close(own, dfw.build("grid", "linspace")(50, Cosine()), rtol=0, atol=1e-9)


def test_a_schedule_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="no such schedule"):
        LevelsOf("cosin")
