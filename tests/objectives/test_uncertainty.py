"""EDM2's learned uncertainty: where it starts and where training takes it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.denoiser import NetworkDenoiser


class Silent(nn.Module):
    def forward(self, x, label, cond):
        return torch.zeros_like(x)


def parts(**options):
    schedule = dfw.build("schedule", "edm")
    denoiser = NetworkDenoiser(Silent(), schedule, dfw.build("parameterization", "x0"))
    weighting = dfw.build("weighting", "native")
    return schedule, denoiser, weighting, dfw.build("objective", "uncertainty", weighting=weighting, **options)


def test_before_training_it_is_the_simple_objective():
    schedule, denoiser, weighting, objective = parts()
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(6, 4, generator=generator) for _ in range(2))
    level = schedule(torch.linspace(0.01, 1, 6, dtype=torch.float64))
    simple = dfw.build("objective", "simple", weighting=weighting)
    torch.testing.assert_close(objective(denoiser, x0, level, eps), simple(denoiser, x0, level, eps))


def test_its_only_trained_parameters_are_the_coefficients_of_u():
    *_, objective = parts()
    assert [name for name, _ in objective.named_parameters()] == ["coefficients"]
    assert set(objective.state_dict()) == {"coefficients", "frequencies", "phases"}


def test_edm2s_layer_knows_the_direction_of_its_coefficients_alone_and_keeps_their_length():
    schedule, denoiser, _, objective = parts(normalized=True)
    level = schedule(torch.linspace(0.01, 1, 6, dtype=torch.float64))
    before = objective.log_loss(level)
    # Unit variance of the random layer: its direction times sqrt(2) cos.
    label = (-level.log_snr / 8).float()[:, None]
    features = math.sqrt(2) * torch.cos(label * objective.frequencies + objective.phases)
    direction = objective.coefficients / objective.coefficients.norm()
    torch.testing.assert_close(before, features @ direction, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        objective.coefficients.mul_(7)
    torch.testing.assert_close(objective.log_loss(level), before, rtol=1e-3, atol=1e-4)
    x0 = torch.ones(6, 1)
    with torch.no_grad():
        objective(denoiser, x0, level, x0)
    assert objective.coefficients.norm() > 6 * math.sqrt(128)  # an evaluation changes nothing
    objective(denoiser, x0, level, x0)
    assert objective.coefficients.detach().norm().item() == pytest.approx(math.sqrt(128), rel=1e-3)


def test_two_of_it_have_the_same_features_whatever_the_global_seed():
    torch.manual_seed(1)
    *_, one = parts()
    torch.manual_seed(2)
    *_, other = parts()
    torch.testing.assert_close(one.frequencies, other.frequencies, rtol=0, atol=0)


@pytest.mark.parametrize("normalized", [False, True])
def test_trained_alone_it_learns_the_logarithm_of_the_loss_at_each_level(normalized):
    schedule, denoiser, _, objective = parts(normalized=normalized)
    # Data whose scale depends on nothing, so that a silent x_0 network has the loss x_0^2: here 3^2 and 0.1^2.
    t = torch.tensor([0.002, 0.5], dtype=torch.float64)
    level = schedule(t)
    x0 = torch.tensor([[3.0], [0.1]])
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        objective(denoiser, x0, level, torch.zeros_like(x0)).mean().backward()
        optimizer.step()
    torch.testing.assert_close(objective.log_loss(level).exp(), x0.square().flatten(), rtol=1e-2, atol=0)


def test_pure_noise_has_a_finite_uncertainty():
    *_, objective = parts()
    nn.init.normal_(objective.coefficients, generator=torch.Generator().manual_seed(0))
    level = dfw.build("schedule", "flow")(torch.tensor([0.0, 1.0]))
    assert objective.log_loss(level).isfinite().all()
