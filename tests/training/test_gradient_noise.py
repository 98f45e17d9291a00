"""The gradient noise scale against known covariances of gradients."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.composition.checks import check_gradients
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.conditions.conditioner import Conditioner
from diffusion_fw.noise import generator
from diffusion_fw.training.callbacks.gradient_noise import GradientNoise, GradientNoiseScale


def test_the_estimates_of_trace_and_norm_have_no_bias():
    """Gradients G + Sigma^(1/2) n / sqrt(b) of parts of b examples, split over two tensors; 400 estimates each."""
    mean, std = torch.tensor([0.3, -0.1, 0.2, 0.0]), torch.tensor([1.0, 2.0, 0.5, 3.0])
    size, count, repeats = 8, 5, 400
    draws = mean + std / math.sqrt(size) * torch.randn(repeats, count, 4, generator=generator(0))
    found = [GradientNoise.of([list(part.split([3, 1])) for part in parts], size) for parts in draws]
    for values, wanted in zip(zip(*found, strict=True), (std.square().sum(), mean.square().sum()), strict=True):
        estimates = torch.tensor(values)
        error = estimates.std() / math.sqrt(repeats)
        assert abs(float(estimates.mean() - wanted)) < 5 * float(error)


def test_equal_gradients_have_no_noise_and_a_hidden_mean_has_an_infinite_scale():
    gradient = [torch.tensor([3.0, 4.0])]
    found = GradientNoise.of([gradient] * 4, 16)
    assert (found.trace, found.squared) == pytest.approx((0, 25), abs=1e-9)
    opposite = GradientNoise.of([gradient, [-gradient[0]]], 16)
    assert opposite.trace == pytest.approx(2 * 16 * 25)
    assert opposite.scale == math.inf


class Constant(nn.Module):
    """F = w."""

    def __init__(self, weight) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x, label, cond):
        return self.weight.expand(x.shape)


def test_a_model_whose_gradients_are_known():
    """The loss mean((w - x_0)^2) of D values has the gradient 2 (w - x_0) / D: its covariance is 4 Cov(x_0) / D^2."""
    data = dfw.build("data", "gaussian_mixture", num_examples=4000)
    weight = torch.tensor([2.0, -1.0])
    denoiser = dfw.NetworkDenoiser(Constant(weight), dfw.build("schedule", "vp"), dfw.build("parameterization", "x0"))
    module = SimpleNamespace(
        denoiser=denoiser,
        objective=dfw.build("objective", "simple", weighting=dfw.build("weighting", "native")),
        time_sampler=dfw.build("time_sampler", "uniform"),
        trained=list(denoiser.parameters()),
        label_dropout=0.0,
        device=torch.device("cpu"),
        augmented=lambda x0, draw: (x0, denoiser),
        examples=data.train,
        conditioner=Conditioner(),
        kept=lambda count, source, rows: ((torch.rand(count, generator=source) >= 0)[rows], {}),
    )
    few, many = (GradientNoiseScale(history=None, seed=0, every=1, parts=parts, part_size=4) for parts in (2, 200))
    state = torch.get_rng_state()
    found = few.measure(module, 7)
    assert torch.equal(torch.get_rng_state(), state)
    assert few.measure(module, 7) == found
    assert few.measure(module, 8) != found
    found = many.measure(module, 7)
    x0 = data.train.values.double()
    trace = x0.var(0).sum().item()  # 4 / D^2 is 1
    squared = (weight.double() - x0.mean(0)).square().sum().item()
    # Four standard errors: sqrt(2 / (2 * 199)) of the trace and 2 sqrt(trace / 2 / 800 / squared) of the norm.
    assert found.trace == pytest.approx(trace, rel=0.28)
    assert found.squared == pytest.approx(squared, rel=8 * math.sqrt(trace / 1600 / squared))
    assert found.scale == found.trace / found.squared
    assert all(item.grad is None for item in module.trained)


WRITES = {"network": "edm2_unet", "network.channels": 4, "network.channel_mult": [1], "network.num_res_blocks": 1}
WRITES |= {"network.attention_resolutions": []}
"""A network that normalizes its weights in place in every forward pass of the training."""


@pytest.mark.parametrize(
    "changes", [{}, {"objective": "sliced_score_matching"}, WRITES], ids=["simple", "sliced", "writes weights"]
)
def test_a_run_is_the_same_with_it(tiny, tmp_path, changes):
    weights, logged = [], []
    for callbacks in ([], ["gradient_noise"]):
        options = {"callbacks.gradient_noise.every": 1, "callbacks.gradient_noise.parts": 2} if callbacks else {}
        options |= {"callbacks.gradient_noise.part_size": 4} if callbacks else {}
        config = tiny({"callbacks": callbacks, "trainer.max_steps": 2, **changes, **options})
        experiment = build_experiment(config, tmp_path)
        experiment.trainer.loggers = [Recorder(logged)]
        experiment.trainer.fit(experiment.module)
        weights.append([item.clone() for item in experiment.module.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
    noise = [metrics for metrics in logged if "gradient_noise/scale" in metrics]
    assert len(noise) == 2
    assert all(metrics["gradient_noise/trace"] > 0 for metrics in noise)


class Recorder:
    """Stands for a logger."""

    save_dir, name, version = "nowhere", "recorder", ""

    def __init__(self, logged) -> None:
        self.logged = logged

    def log_metrics(self, metrics, step) -> None:
        self.logged.append(metrics)

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def test_it_is_refused_where_a_process_holds_a_part_of_the_weights():
    callback = dfw.build("callbacks", "gradient_noise", history=None, seed=0)
    check_gradients({"trainer": {"strategy": "ddp"}}, {"gradient_noise": callback})
    with pytest.raises(dfw.ConfigError, match=r"callbacks=gradient_noise needs .* trainer\.strategy=fsdp;"):
        check_gradients({"trainer": {"strategy": "fsdp"}}, {"gradient_noise": callback})


def test_a_precision_whose_loss_is_scaled_is_refused():
    callback = dfw.build("callbacks", "gradient_noise", history=None, seed=0)
    check_gradients({"trainer": {"precision": "bf16-mixed"}}, {"gradient_noise": callback})
    with pytest.raises(dfw.ConfigError, match=r"callbacks=gradient_noise .* trainer\.precision=16-mixed"):
        check_gradients({"trainer": {"precision": "16-mixed"}}, {"gradient_noise": callback, "other": object()})
