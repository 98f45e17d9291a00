"""Where a path ends in noise alone, an ordinary error of the network does not become the sample, without any clip."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.samplers import sampler as base

DATA = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
SCHEDULES = {
    "cosine": dfw.build("schedule", "cosine"),
    "cosine of 4000 rows": dfw.build("schedule", "cosine", num_steps=4000),
}


class Imperfect(nn.Module):
    """eps of two narrow clusters at the corners of the bounds, with an error of a few percent."""

    def __init__(self, schedule: dfw.Schedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.exact = dfw.oracles.GaussianMixture(DATA, torch.tensor([0.05, 0.05])).denoiser(schedule)

    def forward(self, x, label, cond=None):
        t = (label[0].double() + 1) / 1000
        error = 0.05 * torch.sin(3 * x + (0 if cond is None else cond.view(-1, 1)))
        return self.exact(x, self.schedule(t)).eps + error


def model(schedule: dfw.Schedule) -> dfw.NetworkDenoiser:
    return dfw.NetworkDenoiser(Imperfect(schedule), schedule, dfw.build("parameterization", "epsilon"), (-1.0, 1.0))


def guided(denoiser: dfw.Denoiser) -> dfw.Denoiser:
    return dfw.build("guidance", "classifier_free", denoiser=denoiser, num_classes=2, scale=2.0)


# Others need rates of a schedule, or are not meant for few steps.
SAMPLERS = [
    ("ddim", {}),
    ("ddim", {"eta": 1.0}),
    ("ddpm", {}),
    ("euler", {}),
    ("heun", {}),
    ("lms", {}),
    ("deis", {}),
    ("plms", {}),
    ("plms", {"warm_up": "improved_euler"}),
    ("plms", {"warm_up": "lower_order"}),
    ("unipc", {}),
    ("dpm_solver_pp", {}),
    ("dpm_solver_pp_sde", {}),
    ("edm_stochastic", {}),
    ("restart", {}),
]


# Classifier-free guidance with scale 2 extrapolates two predictions within [-1, 1] to [-3, 3].
@pytest.mark.parametrize(
    ("wrap", "most"), [(lambda item: item, 1.8), (guided, 3.3)], ids=["alone", "classifier-free guidance"]
)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("name", "settings"), SAMPLERS)
def test_every_sampler_starts_from_pure_noise(name, settings, schedule, wrap, most):
    path, random = SCHEDULES[schedule], torch.Generator().manual_seed(0)

    def noise(like):
        return torch.randn(like.shape, generator=random)

    sampler = dfw.build("sampler", name, steps=20, **settings)
    x = sampler(wrap(model(path)), dfw.prior(path, (64, 2), noise), cond=torch.arange(64) % 2, noise=noise)
    assert x.abs().max() < most
    assert 0.25 < (x[:, 0] > 0).float().mean() < 0.75


def test_the_prediction_is_clamped_only_where_it_is_unknown_and_stays_consistent():
    path = SCHEDULES["cosine"]
    plain = dfw.NetworkDenoiser(Imperfect(path), path, "epsilon", (-math.inf, math.inf))
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    for t in (1.0, 0.999, 0.5, 0.001):
        level = path(torch.tensor(t, dtype=torch.float64))
        found, unclamped = model(path)(x, level), plain(x, level)
        assert torch.equal(found.x0, unclamped.x0.clamp(-1, 1) if t == 1 else unclamped.x0)
        torch.testing.assert_close(
            level.alpha * found.x0 + level.sigma * found.eps, x, atol=1e-5, rtol=0, check_dtype=False
        )
        several = model(path)(x, path(torch.full((64,), t, dtype=torch.float64)))
        torch.testing.assert_close(several.x0, found.x0, atol=1e-5, rtol=1e-3)


def test_a_prediction_of_v_is_never_clamped():
    path = SCHEDULES["cosine"]
    denoiser = dfw.NetworkDenoiser(Imperfect(path), path, dfw.build("parameterization", "v"), (-1.0, 1.0))
    denoiser.output = lambda x, level, cond=None: (7 * torch.ones_like(x), None)  # type: ignore[method-assign]
    assert denoiser(torch.zeros(4, 2), path(torch.ones((), dtype=torch.float64))).x0.abs().min() > 6


@pytest.mark.parametrize("sampler", [("ddim", {"steps": 50}), ("ode", {"atol": 1e-4, "rtol": 1e-4})])
def test_what_is_encoded_is_decoded_from_pure_noise(sampler, caplog):
    (name, settings), denoiser = sampler, model(SCHEDULES["cosine"])
    x = DATA.repeat(8, 1) + 0.05 * torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    for grid, warned in (("uniform", True), ("leading", False)):
        caplog.clear()
        chosen = dfw.build("sampler", name, grid=dfw.build("grid", grid), **settings)
        with caplog.at_level(logging.WARNING):
            found = chosen(denoiser, chosen.encode(denoiser, x))
        assert ("alpha = 4.9e-05 at the grid's first time" in caplog.text) == warned
        assert (found - x).abs().max() < 0.5


def test_nothing_is_said_of_a_path_without_any_signal_at_its_end(caplog):
    """A model on it doesn't divide by alpha."""
    exact = dfw.oracles.GaussianMixture(DATA, torch.tensor([0.05, 0.05])).denoiser(dfw.build("schedule", "flow"))
    dfw.build("sampler", "ddim", steps=20).encode(exact, DATA)
    assert not caplog.records


def test_samples_far_outside_of_the_data_are_warned_of_once(caplog):
    base.warn_outside.cache_clear()
    path = SCHEDULES["cosine"]
    far = dfw.build("guidance", "classifier_free", denoiser=model(path), num_classes=2, scale=100.0)
    sampler = dfw.build("sampler", "ddim", steps=10)
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        sampler(far, x, cond=torch.arange(16) % 2)
    sampler(model(path), x, cond=torch.arange(16) % 2)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "outside the bounds of the data, [-1, 1]" in message
    assert "guidance=[classifier_free,clip]" in message
