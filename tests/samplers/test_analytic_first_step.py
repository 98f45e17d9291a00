"""The first evaluation without the network: standard normal data in its place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import diffusion_fw as dfw
from diffusion_fw.app.explain import evaluations

SCHEDULE = dfw.build("schedule", "vp")
SAMPLERS = [
    "reverse_diffusion",
    "predictor_corrector",
    "deis",
    "dpm_solver_pp",
    "euler",
    "heun",
    "lms",
    "plms",
    "unipc",
]


class Counting:
    """Normal data of any variance, exactly, and the number of evaluations."""

    def __init__(self, variance: float) -> None:
        self.schedule, self.calls = SCHEDULE, 0
        self.exact = dfw.oracles.GaussianMixture(
            torch.zeros(1, 2), torch.tensor([variance]).sqrt(), torch.ones(1)
        ).denoiser(SCHEDULE)

    def __call__(self, x, level, cond=None):
        self.calls += 1
        return self.exact(x, level, cond)


def sample(name: str, variance: float, analytic: bool) -> tuple[Tensor, int, int]:
    sampler = dfw.build("sampler", name, steps=8, analytic_first_step=analytic)
    denoiser = Counting(variance)
    x = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    steps = list(sampler.trajectory(denoiser, x, noise=torch.zeros_like))
    return steps[-1].x, denoiser.calls, sum(step.evaluations for step in steps)


@pytest.mark.parametrize("name", SAMPLERS)
def test_it_saves_one_evaluation_and_says_so(name):
    _, calls, said = sample(name, 0.3, analytic=True)
    _, without, _ = sample(name, 0.3, analytic=False)
    assert calls == said == without - 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_it_is_exact_for_standard_normal_data_and_close_for_others(name):
    torch.testing.assert_close(sample(name, 1.0, True)[0], sample(name, 1.0, False)[0], rtol=0, atol=1e-6)
    other, usual = sample(name, 0.3, True)[0], sample(name, 0.3, False)[0]
    assert 0 < (other - usual).abs().max() < 0.05 * usual.abs().max()


def test_explain_counts_it():
    assert evaluations(dfw.build("sampler", "unipc", steps=10, analytic_first_step=True)) == "9"
