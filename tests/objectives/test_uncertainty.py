"""EDM2's learned uncertainty: where it starts and where training takes it."""

from __future__ import annotations

import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.denoiser import NetworkDenoiser


class Silent(nn.Module):
    def forward(self, x, label, cond):
        return torch.zeros_like(x)


def parts():
    schedule = dfw.build("schedule", "edm")
    denoiser = NetworkDenoiser(Silent(), schedule, dfw.build("parameterization", "x0"))
    weighting = dfw.build("weighting", "native")
    return schedule, denoiser, weighting, dfw.build("objective", "uncertainty", weighting=weighting)


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


def test_two_of_it_have_the_same_features_whatever_the_global_seed():
    torch.manual_seed(1)
    *_, one = parts()
    torch.manual_seed(2)
    *_, other = parts()
    torch.testing.assert_close(one.frequencies, other.frequencies, rtol=0, atol=0)


def test_trained_alone_it_learns_the_logarithm_of_the_loss_at_each_level():
    schedule, denoiser, _, objective = parts()
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
