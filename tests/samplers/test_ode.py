import pytest
import torch

from diffusion_fw.process.schedules.continuous import EDM, VE, VP, Flow, SubVP
from diffusion_fw.process.schedules.tables import Linear
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.ode import ODE


@pytest.mark.parametrize("schedule", [VP(), SubVP(), VE(), EDM(), Flow(), Linear()], ids=lambda s: type(s).__name__)
def test_a_gaussian_is_mapped_exactly(tools, schedule):
    """x_0 = x_1 s / sqrt(alpha^2 s^2 + sigma^2) for data N(0, s^2), at the smallest noisy time and then denoised."""
    denoiser, std = tools.gaussian(schedule, std=0.5), 0.5
    first, last = schedule(torch.tensor([1.0, schedule.t_min], dtype=torch.float64)).unbind()
    x = first.sigma * torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    variance_first, variance_last = (level.alpha**2 * std**2 + level.sigma**2 for level in (first, last))
    denoised = last.alpha * std**2 / variance_last * x * (variance_last / variance_first).sqrt()
    result = ODE(atol=1e-9, rtol=1e-9)(denoiser, x)
    torch.testing.assert_close(result, denoised, rtol=1e-6, atol=1e-6)


def test_the_error_falls_with_the_tolerance(tools):
    denoiser, x = tools.Mixture(VP()), tools.start()
    end = VP()(torch.tensor(VP().t_min, dtype=torch.float64))
    exact = denoiser(tools.flow(denoiser, x, 1.0, VP().t_min), end).x0
    errors = [(ODE(atol=tol, rtol=tol)(denoiser, x) - exact).abs().max().item() for tol in (1e-4, 1e-6, 1e-8)]
    assert errors[0] < 1e-3
    assert errors[1] < 1e-5
    assert errors[2] < 1e-7


def test_the_evaluations_that_it_reports_are_those_it_made(tools):
    mixture, calls = tools.Mixture(VP()), 0

    class Counted:
        schedule = mixture.schedule

        def __call__(self, x, level, cond=None):
            nonlocal calls
            calls += 1
            return mixture(x, level)

    steps = list(ODE(3).trajectory(Counted(), tools.start()))
    assert sum(step.evaluations for step in steps) == calls > 0


def test_the_grid_says_where_the_trajectory_is_shown_not_how_exact_it_is(tools):
    denoiser, x = tools.Mixture(VP()), tools.start()
    shown = list(ODE(4).trajectory(denoiser, x))
    assert [step.t for step in shown] == pytest.approx([0.75, 0.5, 0.25, 0])
    torch.testing.assert_close(shown[1].x, tools.flow(denoiser, x, 1.0, 0.5), rtol=0, atol=1e-4)
    torch.testing.assert_close(shown[-1].x, ODE()(denoiser, x), rtol=0, atol=2e-4)


@pytest.mark.parametrize("schedule", [VP(), VE(), Flow()], ids=lambda s: type(s).__name__)
def test_encoding_is_undone_by_sampling(tools, schedule):
    denoiser = tools.Mixture(schedule)
    x = tools.Mixture(schedule).means + 0.1
    sampler = ODE(atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(sampler(denoiser, sampler.encode(denoiser, x)), x, rtol=0, atol=2e-3)


def test_an_encoded_gaussian_is_as_wide_as_the_noise(tools):
    denoiser = tools.gaussian(VP(), std=0.5)
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    torch.testing.assert_close(ODE().encode(denoiser, 0.5 * z), z, rtol=0, atol=2e-3)


def test_a_jump_of_the_table_is_refused():
    with pytest.raises(ConfigError, match="zero_terminal_snr"):
        ODE().check(Linear(zero_terminal_snr=True))
