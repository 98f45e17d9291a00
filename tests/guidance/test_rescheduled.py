"""A model on another schedule against the exact denoiser of that schedule."""

from __future__ import annotations

import itertools

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.process.schedule import DiscreteSchedule

PATHS = {
    "vp": {},
    "sub_vp": {},
    "ve": {"sigma_min": 0.01, "sigma_max": 50.0},
    "edm": {},
    "flow": {},
    "cosine_continuous": {},
    "linear": {},
}


def schedule(name):
    return dfw.build("schedule", name, **PATHS[name])


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(PATHS, 2)))
def test_the_exact_denoiser_rescheduled_is_the_exact_denoiser_of_the_target(tools, source, target):
    source, target = schedule(source), schedule(target)
    rescheduled = dfw.build("guidance", "rescheduled", denoiser=tools.Mixture(source), target=target)
    exact = tools.Mixture(target)
    t = target.snap(torch.linspace(0.02, 0.99, 60, dtype=torch.float64))
    ends = source(torch.tensor([source.t_min, 1.0], dtype=torch.float64)).log_snr
    log_snr = target(t).log_snr
    t = t[(log_snr < ends[0]) & (log_snr > ends[1])]
    assert len(t) > 20
    level = target(t)
    eps = torch.randn(len(t), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = level.sigma[:, None] * eps + level.alpha[:, None] * 0.3
    got, wanted = rescheduled(x, level), exact(x, level)
    # A table answers for its nearest row within a millionth of a row.
    tolerance = 1e-6 if isinstance(source, DiscreteSchedule) else 1e-12
    torch.testing.assert_close(got.x0, wanted.x0, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(got.eps, wanted.eps, rtol=tolerance, atol=tolerance)


def test_its_schedule_is_the_target_and_any_sampler_follows_it(tools):
    """Deterministic DDIM depends on a path through its log-SNR alone: the same levels end in the same sample."""
    vp, flow = schedule("vp"), schedule("flow")
    rescheduled = dfw.build("guidance", "rescheduled", denoiser=tools.Mixture(vp), target=flow)
    assert rescheduled.schedule is flow
    times = [1.0, 0.8, 0.6, 0.3, 0.1, 0.02]
    along_vp = dfw.build("sampler", "ddim", steps=6, grid=dfw.build("grid", "explicit", times=times))
    same = flow.time(vp(torch.tensor(times, dtype=torch.float64)).log_snr)
    along_flow = dfw.build("sampler", "ddim", steps=6, grid=dfw.build("grid", "explicit", times=same.tolist()))
    scale = (flow(same[0]).sigma / vp(torch.tensor(1.0, dtype=torch.float64)).sigma).item()
    x = tools.draw()
    torch.testing.assert_close(
        along_flow(rescheduled, scale * x), along_vp(tools.Mixture(vp), x), rtol=1e-10, atol=1e-10
    )


def test_beyond_the_models_noise_it_is_evaluated_at_its_noisiest_level(tools):
    vp, flow = schedule("vp"), schedule("flow")
    evaluations = []

    class Spy(tools.Mixture):
        def __call__(self, x, level, cond=None):
            evaluations.append((x, level))
            return super().__call__(x, level, cond)

    rescheduled = dfw.build("guidance", "rescheduled", denoiser=Spy(vp), target=flow)
    x, level = tools.draw(), flow(tools.times(1.0))
    prediction = rescheduled(x, level)
    torch.testing.assert_close(evaluations[0][1].t, tools.times(1.0), rtol=1e-12, atol=0)
    torch.testing.assert_close(evaluations[0][0], x * evaluations[0][1].sigma)
    torch.testing.assert_close(prediction.eps, x)


def test_below_a_tables_first_row_it_is_evaluated_at_that_row(tools):
    linear, edm = schedule("linear"), schedule("edm")
    rescheduled = dfw.build("guidance", "rescheduled", denoiser=tools.Mixture(linear), target=edm)
    level = edm(tools.times(0.002 / 80))
    assert level.log_snr > linear.table.log_snr[1]
    x = tools.draw()
    prediction = rescheduled(x, level)
    first = linear.table[1]
    torch.testing.assert_close(prediction.x0, tools.Mixture(linear)(first.alpha * x, first).x0)
    assert tools.residual(x, level, prediction) < 1e-12
