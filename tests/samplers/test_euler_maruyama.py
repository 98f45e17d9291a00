import pytest
import torch

from diffusion_fw.process.schedules.continuous import VE, VP, SubVP
from diffusion_fw.process.schedules.tables import Linear
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.euler_maruyama import EulerMaruyama


def test_weak_order_is_1(weak_order):
    assert weak_order(EulerMaruyama) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("schedule", [VP(), VE(), SubVP()], ids=lambda s: type(s).__name__)
def test_a_step_is_the_discretized_reverse_sde(tools, schedule):
    """dx = (f x - g^2 score) dt + g dw backwards (Song et al. 2021, equation 6)."""
    denoiser, x, z = tools.Mixture(schedule), tools.start(), torch.ones_like(tools.start())
    t, s = 0.5, 0.45
    level = schedule(torch.tensor(t, dtype=torch.float64))
    f, g_squared = schedule.rates(level.t)
    score = -denoiser(x, level).eps / level.sigma
    expected = x - (t - s) * (f * x - g_squared * score) + (g_squared * (t - s)).sqrt() * z
    sampler = EulerMaruyama(1, tools.Interior(t, s))
    torch.testing.assert_close(sampler(denoiser, x, noise=lambda _: z), expected, rtol=1e-10, atol=1e-10)


def test_the_last_step_is_the_prediction_of_x0(tools):
    *_, last = EulerMaruyama(20).trajectory(tools.Mixture(VP()), tools.start())
    torch.testing.assert_close(last.x, last.x0)


def test_a_table_is_refused_when_built():
    with pytest.raises(ConfigError, match="schedule"):
        EulerMaruyama(20).check(Linear())
