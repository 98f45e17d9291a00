"""Classifier guidance against Bayes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.denoiser import NetworkClassifier


def build(denoiser, **parameters):
    return dfw.build("guidance", "classifier", denoiser=denoiser, classifier=denoiser.log_joint, **parameters)


@pytest.mark.parametrize("schedule", ["vp", "flow", "edm", "linear"])
def test_the_exact_classifier_turns_the_model_into_the_conditional_one(tools, schedule):
    """Dhariwal & Nichol 2021, section 4: grad log p(x|y) = grad log p(x) + grad log p(y|x)."""
    denoiser = tools.Mixture(dfw.build("schedule", schedule))
    x, cond = tools.draw(), tools.labels()
    for t in (tools.times(0.3), tools.times(0.01, 0.1, 0.3, 0.5, 0.7, 0.9)):
        level = denoiser.schedule(t)
        with torch.no_grad():
            guided, exact = build(denoiser)(x, level, cond), denoiser(x, level, cond)
        torch.testing.assert_close(guided.x0, exact.x0, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(guided.eps, exact.eps, rtol=1e-9, atol=1e-9)


def test_the_scale_multiplies_the_gradient(tools):
    denoiser = tools.Mixture()
    x, cond, level = tools.draw(), tools.labels(), denoiser.schedule(tools.times(0.4))
    free, exact = denoiser(x, level).eps, denoiser(x, level, cond).eps
    assert torch.equal(build(denoiser, scale=0.0)(x, level, cond).eps, free)
    torch.testing.assert_close(build(denoiser, scale=2.5)(x, level, cond).eps, free + 2.5 * (exact - free))


def test_a_conditional_model_may_be_guided_too(tools):
    denoiser = tools.Mixture()
    x, cond, level = tools.draw(), tools.labels(), denoiser.schedule(tools.times(0.4))
    assert torch.equal(build(denoiser, scale=0.0, conditional=True)(x, level, cond).x0, denoiser(x, level, cond).x0)


def test_guiding_to_no_class_is_refused(tools):
    with pytest.raises(dfw.ConfigError, match="guidance=classifier was called without cond"):
        build(tools.Mixture())(tools.draw(), tools.Mixture().schedule(tools.times(0.5)))


class TinyClassifier(nn.Module):
    """An MLP of x and the label."""

    gives_logits = True

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 3))

    def forward(self, x, label, cond=None):
        return self.layers(torch.cat([x, label[:, None] / 1000], dim=1))


@pytest.fixture(scope="module")
def trained(tools):
    """A classifier of the mixture, trained with objective=classifier."""
    torch.manual_seed(0)
    mixture = tools.Mixture()
    schedule, parameterization = mixture.schedule, dfw.build("parameterization", "epsilon")
    classifier = NetworkClassifier(TinyClassifier(), schedule, parameterization, num_classes=3)
    objective = dfw.build("objective", "classifier")
    optimizer = torch.optim.Adam(classifier.parameters(), lr=5e-3)
    source = torch.Generator().manual_seed(1)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 400)
        cond = torch.multinomial(mixture.weights, 256, replacement=True, generator=source)
        noise = torch.randn(2, 256, 4, generator=source)
        x0 = (mixture.means[cond] + mixture.stds[cond][:, None] * noise[0]).float()
        level = schedule(torch.rand(256, dtype=torch.float64, generator=source).clamp(min=0.02))
        objective(classifier, x0, level, noise[1], cond).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return classifier.requires_grad_(False)


@pytest.mark.parametrize("t", [0.2, 0.3])
def test_a_trained_classifier_guides_nearly_as_the_exact_one(tools, trained, t):
    mixture = tools.Mixture()
    level = mixture.schedule(tools.times(t))
    cond = torch.multinomial(mixture.weights, 2000, replacement=True, generator=torch.Generator().manual_seed(2))
    noise = torch.randn(2, 2000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x0 = mixture.means[cond] + mixture.stds[cond][:, None] * noise[0]
    x = (level.alpha * x0 + level.sigma * noise[1]).float()
    guided = dfw.build("guidance", "classifier", denoiser=mixture, classifier=trained)(x, level, cond).x0
    exact, free = mixture(x, level, cond).x0, mixture(x, level).x0
    error, whole = (guided - exact).square().mean(), (free - exact).square().mean()
    assert error < 0.1 * whole


def test_the_loss_of_the_exact_classifier_is_the_entropy_of_the_posterior(tools):
    mixture, objective = tools.Mixture(), dfw.build("objective", "classifier")
    generator = torch.Generator().manual_seed(4)
    cond = torch.multinomial(mixture.weights, 20_000, replacement=True, generator=generator)
    noise = torch.randn(2, 20_000, 4, dtype=torch.float64, generator=generator)
    level = mixture.schedule(torch.full((20_000,), 0.4, dtype=torch.float64))
    x0 = mixture.means[cond] + mixture.stds[cond][:, None] * noise[0]
    loss = objective(mixture.log_joint, x0, level, noise[1], cond)
    share = mixture.log_joint(level.alpha[:, None] * x0 + level.sigma[:, None] * noise[1], level).softmax(1)
    entropy = -(share * share.log()).sum(1)
    assert abs(loss.mean() - entropy.mean()) < 4 * (loss - entropy).std() / 20_000**0.5
