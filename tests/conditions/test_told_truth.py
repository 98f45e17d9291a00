"""A model that is told a number learns p(x | y): closed form, and clearly better than one that is not told it.

x_0 = A y + s z with y uniform on [-1, 1] and z standard normal. The best eps of p(x | y) is that of N(A y, s^2 I).
"""

from __future__ import annotations

import math

import pytest
import torch
from registry_copy import copied_registry

import diffusion_fw as dfw
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.data.dataset import Data, InMemory
from diffusion_fw.metrics.heldout import Heldout, losses_of
from diffusion_fw.noise import generator

A, SPREAD = torch.tensor([1.2, -0.8]), 0.1


class Line(Data):
    """Points around a segment; where along it is their attribute."""

    default_features = "identity"
    value_range = None
    shape = (2,)

    def drawn(self, split):
        source = generator(0, split == "test")
        y = 2 * torch.rand(4000 if split == "train" else 1000, 1, generator=source) - 1
        return y, A * y + SPREAD * torch.randn(len(y), 2, generator=source)

    def attributes(self, split):
        return self.drawn(split)[0]

    def load(self, split):
        return InMemory(self.drawn(split)[1])


@pytest.fixture
def trained(tiny, tmp_path):
    """The module of a short run on points that are told where they are, and its held-out examples."""
    settings = {
        **{"data": "line", "network": "mlp", "network.width": 32, "network.depth": 2, "features": "identity"},
        **{"guidance": [], "callbacks": [], "schedule": "vp", "optimizer.lr": 0.01, "batch_size": 256},
        **{"trainer.max_steps": 150, "ema": "none", "lr_schedule.warmup_steps": 20, "condition": ["attributes"]},
    }
    with copied_registry():
        dfw.register("data", "line")(Line)
        experiment = build_experiment(tiny(settings), tmp_path)
        experiment.trainer.fit(experiment.module)
    module = experiment.module
    module.denoiser.eval()
    return module, Heldout.of(experiment.data, module.denoiser.schedule, 0, module.conditioner)


def best_eps(x, level, y):
    """E[eps | x_t, y] = sigma (x_t - alpha A y) / (alpha^2 s^2 + sigma^2), and log p(x_t | y) up to a constant."""
    alpha, sigma = level.alpha[:, None], level.sigma[:, None]
    variance = alpha**2 * SPREAD**2 + sigma**2
    offset = x - alpha * A.double() * y
    return sigma / variance * offset, -(offset.square().sum(1, keepdim=True) / (2 * variance))


def test_a_model_that_is_told_y_reaches_the_loss_of_the_exact_denoiser_of_p_of_x_given_y(trained):
    module, examples = trained
    device = torch.device("cpu")
    found = losses_of(module.objective, module.denoiser, examples, size=1000, device=device, seed=0)
    y = examples.cond.parts["attributes"].value.double()
    assert torch.equal(y, Line().attributes("test").double())
    level, eps = examples.level, examples.eps.double()
    x = level.alpha[:, None] * examples.x0.double() + level.sigma[:, None] * eps
    told = (best_eps(x, level, y)[0] - eps).square().mean(1)
    # Not told: the mean over y given x_t, by the midpoint rule.
    grid = (torch.arange(500).double() + 0.5) / 250 - 1
    each, log = zip(*(best_eps(x, level, place) for place in grid), strict=True)
    weights = torch.stack(log).softmax(0)
    untold = ((weights * torch.stack(each)).sum(0) - eps).square().mean(1)
    print(f"model {found.mean():.4f}, exact {told.mean():.4f}, exact without y {untold.mean():.4f}")
    # The paired difference is the excess over the irreducible loss, without the noise that both have.
    excess, error = (found - told).mean(), (found - told).std() / math.sqrt(len(found))
    gain = untold.mean() - told.mean()
    assert gain > 0.05
    assert -3 * error < excess < 0.35 * gain
