"""What every registered sampler keeps, whatever it computes."""

import pytest
import torch

from diffusion_fw import registry
from diffusion_fw.noise import SampleNoise
from diffusion_fw.process.schedules.continuous import VP, Flow
from diffusion_fw.process.schedules.tables import Linear
from diffusion_fw.registry import ConfigError

NAMES = registry.names("sampler")
SCHEDULES = {"linear": Linear(), "vp": VP(), "flow": Flow(), "zero_snr": Linear(zero_terminal_snr=True)}


class Counted:
    """A denoiser that counts its evaluations."""

    def __init__(self, denoiser):
        self.denoiser, self.schedule, self.calls = denoiser, denoiser.schedule, 0

    def __call__(self, x, level, cond=None):
        self.calls += 1
        return self.denoiser(x, level)


def runs_on(sampler, schedule):
    try:
        sampler.check(schedule)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", NAMES)
def test_it_reaches_clean_data_or_is_refused_when_built(tools, name, schedule):
    sampler, denoiser = registry.build("sampler", name, steps=20), Counted(tools.Mixture(SCHEDULES[schedule]))
    if not runs_on(sampler, SCHEDULES[schedule]):
        assert schedule != "vp"
        return
    steps = list(sampler.trajectory(denoiser, tools.start()))
    assert steps[-1].t == 0
    assert all(step.x.isfinite().all() and step.x0.isfinite().all() for step in steps)
    assert sum(step.evaluations for step in steps) == denoiser.calls


@pytest.mark.parametrize("name", NAMES)
def test_what_is_refused_when_built_is_refused_by_sampling(tools, name):
    for schedule in SCHEDULES.values():
        sampler = registry.build("sampler", name, steps=20)
        if not runs_on(sampler, schedule):
            with pytest.raises(ConfigError):
                sampler(tools.Mixture(schedule), tools.start())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_a_few_steps_give_a_sample_or_are_refused(tools, name, steps):
    sampler = registry.build("sampler", name, steps=steps)
    if runs_on(sampler, VP()):
        assert sampler(tools.Mixture(VP()), tools.start()).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_float32(tools, name):
    sampler = registry.build("sampler", name, steps=20)
    for step in sampler.trajectory(tools.Mixture(VP()), tools.start().float()):
        assert step.x.dtype == step.x0.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_does_not_depend_on_its_batch(tools, name):
    sampler, denoiser, x = registry.build("sampler", name, steps=20), tools.Mixture(VP()), tools.start()
    together = sampler(denoiser, x, noise=SampleNoise(0, range(8)))
    alone = sampler(denoiser, x[3:4], noise=SampleNoise(0, [3]))
    torch.testing.assert_close(alone, together[3:4], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_noise_is_drawn_exactly_by_those_that_call_themselves_stochastic(tools, name):
    sampler, drawn = registry.build("sampler", name, steps=20), []

    def noise(like):
        drawn.append(like.shape)
        return torch.zeros_like(like)

    sampler(tools.Mixture(VP()), tools.start(), noise=noise)
    assert bool(drawn) == sampler.stochastic
    assert sampler.order is None or not sampler.stochastic


@pytest.mark.parametrize("name", NAMES)
def test_gradients_pass_through_the_trajectory(tools, name):
    x = tools.start().requires_grad_()
    *_, last = registry.build("sampler", name, steps=20).trajectory(tools.Mixture(VP()), x)
    (gradient,) = torch.autograd.grad(last.x.sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_a_mixture_have_its_moments(tools, name):
    """Mean and covariance of 4000 samples within five standard errors, and what coarse steps leave besides."""
    parameters = {"annealed_langevin": {"step_size": 1e-4, "steps_per_level": 10}, "predictor_corrector": {"snr": 0.05}}
    denoiser = tools.Mixture(VP())
    grid = tools.Clean(1.0, 1e-3)
    sampler = registry.build("sampler", name, steps=100, grid=grid, **parameters.get(name, {}))
    generator = torch.Generator().manual_seed(0)

    def noise(like):
        return torch.randn(like.shape, dtype=like.dtype, generator=generator)

    x = sampler(denoiser, noise(torch.empty(4000, 2, dtype=torch.float64)), noise=noise)
    mean = (denoiser.weights[:, None] * denoiser.means).sum(0)
    centred = denoiser.means - mean
    spread = (denoiser.weights[:, None, None] * centred[:, :, None] * centred[:, None, :]).sum(0)
    covariance = spread + torch.eye(2, dtype=torch.float64) * (denoiser.weights * denoiser.stds**2).sum()
    error = 5 * covariance.diagonal().max().sqrt().item() / 4000**0.5
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=error + 0.02)
    torch.testing.assert_close(torch.cov(x.T), covariance, rtol=0, atol=2 * error + 0.03)
