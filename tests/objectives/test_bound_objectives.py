"""objective=vlb and objective=hybrid: what they estimate, and what each may move."""

from __future__ import annotations

import math

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.denoiser import NetworkDenoiser

SCHEDULE = dfw.build("schedule", "cosine", num_steps=40)
LEARNED = dfw.build("variance", "learned_range")
NATIVE = dfw.build("weighting", "native")


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = dfw.build("network", "unet", shape=(1, 8, 8), outputs=2, channels=8, channel_mult=[1])
    return NetworkDenoiser(network, SCHEDULE, dfw.build("parameterization", "epsilon"))


@pytest.fixture
def draws():
    source = torch.Generator().manual_seed(1)
    x0 = torch.randn(64, 1, 8, 8, generator=source).clamp(-1, 1)
    t = torch.arange(64) % 40 + 1
    return x0, SCHEDULE(t.double() / 40), torch.randn(x0.shape, generator=source)


def hybrid(weight=0.001):
    return dfw.build("objective", "hybrid", weighting=NATIVE, schedule=SCHEDULE, variance=LEARNED, vlb_weight=weight)


def vlb(variance=LEARNED):
    return dfw.build("objective", "vlb", schedule=SCHEDULE, variance=variance)


def gradients(objective, model, draws):
    """The gradient of the mean loss with respect to the last layer's outputs, by its two halves, and to the rest."""
    model.zero_grad()
    objective(model, *draws).mean().backward()
    *rest, weight, bias = (item.grad for item in model.parameters())
    assert bias.shape == (2,)
    return weight[:1], weight[1:], [item for item in rest if item is not None]


def test_the_hybrid_moves_the_mean_by_the_simple_loss_and_the_variance_by_the_bound_alone(model, draws):
    """Nichol & Dhariwal 2021, section 3.1: a stop-gradient holds the mean fixed in L_vlb."""
    with torch.no_grad():
        for item in model.parameters():
            item += 0.02 * torch.randn(item.shape, generator=torch.Generator().manual_seed(item.numel()))
    simple = dfw.build("objective", "simple", weighting=NATIVE)
    mean, variance, _ = gradients(hybrid(), model, draws)
    mean_of_simple, variance_of_simple, _ = gradients(simple, model, draws)
    mean_of_vlb, variance_of_vlb, _ = gradients(vlb(), model, draws)
    torch.testing.assert_close(mean, mean_of_simple)
    assert not variance_of_simple.any()
    torch.testing.assert_close(variance, 0.001 * variance_of_vlb)
    assert variance.abs().max() > 0
    assert mean_of_vlb.abs().max() > 0
    assert not gradients(hybrid(0.0), model, draws)[1].any()


def test_the_hybrid_asks_the_network_once(model, draws):
    calls = []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    hybrid()(model, *draws)
    assert len(calls) == 1


def test_a_hybrid_of_a_fixed_variance_is_refused():
    small = dfw.build("variance", "small")
    with pytest.raises(dfw.ConfigError, match=r"variance=learned_range"):
        dfw.build("objective", "hybrid", weighting=NATIVE, schedule=SCHEDULE, variance=small)


def test_the_mean_over_all_rows_is_the_bound_without_the_priors_term(model, draws):
    """At the network's start x0 = x_t / alpha and v = 0: each term here by Ho et al.'s formulas in betas."""
    x0, _, _ = draws
    level = SCHEDULE(torch.arange(1, 41).double() / 40)
    x0 = x0[:1].expand(40, -1, -1, -1)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    found = vlb()(model, x0, level, eps)
    beta = SCHEDULE.betas()
    alpha_bar = (1 - beta).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    small, expected = beta * (1 - before) / (1 - alpha_bar), []
    for k in range(1, 40):
        error = ((1 - alpha_bar[k]) / alpha_bar[k]) * eps[k].double().square().mean()
        c_x0 = before[k].sqrt() * beta[k] / (1 - alpha_bar[k])
        log_v = (small[k].log() + beta[k].log()) / 2
        kl = (log_v - small[k].log() + small[k] / log_v.exp() - 1 + c_x0**2 * error / log_v.exp()) / 2
        expected.append(40 * kl / math.log(2))
    torch.testing.assert_close(found[1:].double(), torch.stack(expected), rtol=1e-4, atol=0)
    assert found[0] > 0


def test_the_losses_weights_of_importance_sampling_are_unbiased():
    """The weighted mean of another function than the one learned from, within 5 standard errors: it fails by chance
    once in 1.7 million seeds."""
    sampler, source = dfw.build("time_sampler", "loss_aware"), torch.Generator().manual_seed(0)
    for _ in range(60):
        t = sampler(64, SCHEDULE, source)
        sampler.update(t, 1 / t + torch.rand(64, dtype=torch.float64, generator=source))
    assert sampler.probabilities().max() > 5 * sampler.probabilities().min()
    t = sampler(200_000, SCHEDULE, source)
    values = sampler.weight(t) * torch.cos(3 * t)
    exact = torch.cos(3 * SCHEDULE.table.t[1:]).mean()
    standard_error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - exact) < 5 * standard_error
    # The test has power: without the weights the mean is far off.
    assert abs(torch.cos(3 * t).mean() - exact) > 50 * standard_error
