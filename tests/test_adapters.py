"""Models of other code as denoisers, and what is said about those that are none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.checking.truth import MIXTURE
from diffusion_fw.process.level import beside
from diffusion_fw.registry import ConfigError

VP, EPSILON = dfw.build("schedule", "vp"), dfw.build("parameterization", "epsilon")


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    """A network without classes, which returns what ``pack`` makes of F."""

    def __init__(self, pack=lambda output: output) -> None:
        super().__init__()
        self.linear, self.pack = nn.Linear(2, 2), pack

    def forward(self, x, timestep):
        return self.pack(self.linear(x) + timestep[:, None] / 1000)


class Labelled(nn.Module):
    def forward(self, sample, timestep, class_labels=None):
        return x if (x := sample) is not None and class_labels is None else sample * class_labels[:, None]


@pytest.mark.parametrize(
    "pack",
    [lambda output: output, lambda output: SimpleNamespace(sample=output), lambda output: (output, "more")],
    ids=["tensor", "object", "tuple"],
)
def test_a_network_without_cond_is_wrapped_whatever_holds_its_output(pack):
    network, x, level = Plain(pack), normal(3, 2), VP(torch.tensor([0.2, 0.5, 0.9]))
    denoiser = dfw.wrap(network, "vp", "epsilon")
    output = network.linear(x) + (1000 * level.t - 1).float()[:, None] / 1000
    found = denoiser(x, level)
    torch.testing.assert_close(found.eps, output)
    assert set(denoiser.parameters()) == set(network.parameters())


def test_classes_are_passed_by_their_name():
    denoiser = dfw.wrap(Labelled(), "vp", "epsilon", cond="class_labels")
    x, level = normal(3, 2), VP(torch.tensor(0.5))
    assert torch.equal(denoiser(x, level, torch.tensor([1, 2, 3])).eps, x * torch.tensor([[1.0], [2.0], [3.0]]))
    assert torch.equal(denoiser(x, level).eps, x)
    assert denoiser.network.class_conditional


@pytest.mark.parametrize("schedule", ["vp", "edm", "flow", "cosine", "ve"])
def test_a_function_of_x_and_sigma_samples_on_any_schedule_as_the_denoiser_that_it_is(schedule):
    exact = MIXTURE.denoiser(dfw.build("schedule", "edm", sigma_max=2000.0))

    def x0(x, sigma):
        return exact(x, exact.schedule(exact.schedule.time(-2 * sigma.double().log()))).x0

    path = dfw.build("schedule", schedule)
    wrapped, sampler = dfw.wrap(x0, path), dfw.build("sampler", "dpm_solver_pp", steps=10)
    x = dfw.prior(path, (64, 2), lambda like: normal(*like.shape)).double()
    torch.testing.assert_close(sampler(wrapped, x), sampler(MIXTURE.denoiser(path), x), rtol=0, atol=0.01)


def test_a_diffusers_unet_is_wrapped_as_it_is():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(4, 4),
        norm_num_groups=2,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()
    denoiser = dfw.wrap(unet, "linear", "epsilon")
    x = normal(2, 1, 8, 8)
    with torch.no_grad():
        found = denoiser(x, denoiser.schedule(torch.tensor(0.5))).eps
        torch.testing.assert_close(found, unet(x, 499).sample)
    assert dfw.build("sampler", "ddim", steps=3)(denoiser, x).shape == x.shape


NetworkDenoiser: Any = dfw.NetworkDenoiser
NetworkClassifier: Any = dfw.NetworkClassifier
build: Any = dfw.build
"""Of networks that are no modules, or no networks."""
NO_TENSOR = NetworkDenoiser(lambda x, label, cond: SimpleNamespace(sample=x), VP, EPSILON)
RIGHT = NetworkDenoiser(lambda x, label, cond: x, VP, EPSILON)
WIDE = NetworkDenoiser(lambda x, label, cond: torch.cat([x, x, x], 1), VP, EPSILON)
LEVEL = VP(torch.tensor(0.5))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: dfw.NetworkDenoiser(Plain(), VP, EPSILON), r"Plain takes \(x, timestep\); dfw\.wrap\(network"),
        (lambda x: NetworkDenoiser(3, VP, EPSILON), "network\\(x, label, cond\\), which a int cannot be"),
        (lambda x: NO_TENSOR(x, LEVEL), r"returned a SimpleNamespace, not a tensor like x; dfw\.wrap"),
        (lambda x: WIDE(x, LEVEL), r"returned the shape \(3, 6\) for x of \(3, 2\)"),
        (lambda x: dfw.wrap(lambda x, sigma: "x", "vp")(x, LEVEL), "returned a str; it must return a tensor like x"),
        (lambda x: dfw.wrap(lambda x, sigma: x[:1], "vp")(x, LEVEL), r"returned the shape \(1, 2\) for x of \(3, 2\)"),
        (lambda x: build("sampler", "ddim")(lambda x, sigma: x, x), "takes a denoiser, which has a schedule"),
    ],
)
def test_what_is_no_model_is_said_with_what_is_wanted(wrong, message):
    with pytest.raises((TypeError, ValueError), match=message):
        wrong(normal(3, 2))


CORRELATED = dfw.oracles.CorrelatedGaussian(torch.zeros(2), torch.eye(2))
OF_LEVELS = {
    "network": RIGHT,
    "clip": dfw.build("guidance", "clip", denoiser=RIGHT),
    "wrapped": dfw.wrap(lambda x, sigma: x, "vp"),
    "mixture": MIXTURE.denoiser(VP),
    "correlated": CORRELATED.denoiser(VP),
    "empirical": dfw.oracles.Empirical(normal(5, 2), VP),
    "classifier": NetworkClassifier(lambda x, label: x, VP, EPSILON, 2),
}


@pytest.mark.parametrize("kind", OF_LEVELS)
def test_a_time_in_the_place_of_a_level_is_an_error_that_says_how_to_make_one(kind):
    with pytest.raises(TypeError, match=r"the level is a NoiseLevel, not 0\.5; .*denoiser\.schedule\(t\)"):
        OF_LEVELS[kind](normal(3, 2), 0.5)


@pytest.mark.parametrize("kind", OF_LEVELS)
def test_one_level_for_each_example_may_have_any_shape_that_multiplies_them(kind):
    x, level = normal(3, 2), VP(torch.tensor([0.2, 0.5, 0.9]))
    flat, shaped = OF_LEVELS[kind](x, level), OF_LEVELS[kind](x, level.map(lambda value: value[:, None]))
    for one, other in ((flat.x0, shaped.x0), (flat.eps, shaped.eps)) if kind != "classifier" else ((flat, shaped),):
        assert torch.equal(one, other)


GUIDANCE: dict[str, dict[str, Any]] = {
    "clip": {},
    "dynamic_threshold": {},
    "rescheduled": {"target": "flow"},
    "classifier_free": {"num_classes": 3, "scale": 2.0},
    "autoguidance": {"weak": RIGHT},
}
ON_ANY_DEVICE: dict[str, Any] = {
    **{
        f"parameterization={name}": NetworkDenoiser(lambda x, label, cond: x, VP, name)
        for name in dfw.names("parameterization")
    },
    **{f"guidance={name}": build("guidance", name, denoiser=RIGHT, **settings) for name, settings in GUIDANCE.items()},
    **{kind: OF_LEVELS[kind] for kind in ("wrapped", "mixture", "correlated", "empirical", "classifier")},
}


@pytest.mark.parametrize("kind", ON_ANY_DEVICE)
def test_levels_on_the_device_of_x_meet_no_tensor_of_another(kind):
    """The meta device refuses to compute with tensors of the host, as a GPU does."""
    x = torch.empty(3, 2, device="meta")
    level = beside(VP(torch.tensor([0.2, 0.5, 0.9])), x)
    cond = (torch.zeros(3, dtype=torch.int64, device="meta"),) if kind == "guidance=classifier_free" else ()
    assert level.alpha.shape == (3, 1)
    ON_ANY_DEVICE[kind](x, level, *cond)


class Naive:
    """The denoiser of standard normal images, as the docstring of Denoiser writes it."""

    def __init__(self, schedule) -> None:
        self.schedule = schedule

    def __call__(self, x, level, cond=None):
        x0 = level.alpha * x / (level.alpha**2 + level.sigma**2)
        return dfw.Prediction(x0, (x - level.alpha * x0) / level.sigma)


@pytest.mark.parametrize("name", dfw.names("sampler"))
def test_a_naive_denoiser_works_under_every_sampler(name):
    """Not of a batch that equals another side of x, where wrong shapes broadcast."""
    naive = Naive(dfw.build("schedule", "vp"))
    mixture = dfw.oracles.GaussianMixture(torch.zeros(1, 3, 4, 5), torch.ones(1))
    x = dfw.prior(naive.schedule, (2, 3, 4, 5), lambda like: normal(*like.shape))
    found, exact = (
        dfw.build("sampler", name, steps=20)(
            denoiser, x, noise=lambda like: torch.randn(like.shape, generator=torch.Generator().manual_seed(1))
        )
        for denoiser in (naive, mixture.denoiser(naive.schedule))
    )
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3)


def test_the_likelihood_of_a_naive_denoiser_is_that_of_its_distribution():
    naive, x = Naive(dfw.build("schedule", "vp")), normal(2, 3)
    exact = torch.distributions.Normal(0, 1).log_prob(x.double()).sum(1)
    torch.testing.assert_close(dfw.likelihood.log_prob(naive, x.double()), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("sampler", ["heun", "ddim", "dpm_solver_pp", "ddpm"])
def test_without_bounds_noise_without_signal_does_not_explode(schedule, sampler):
    """Five lines of Python: the output of an untrained network at cosine's last row is 20,000 times itself in x_0."""
    path = dfw.build("schedule", schedule)
    denoiser = dfw.NetworkDenoiser(lambda x, label, cond: 0.97 * x, path, "epsilon")
    x = dfw.build("sampler", sampler, steps=20)(denoiser, dfw.prior(path, (64, 2), lambda like: normal(*like.shape)))
    assert x.abs().max() < 100


def test_at_noise_without_signal_x_is_noise_in_every_form_of_the_level():
    denoiser, x = dfw.NetworkDenoiser(lambda x, label, cond: 0.5 * x, "cosine", "epsilon"), normal(2, 3)
    one = denoiser(x, denoiser.schedule(torch.tensor(1.0)))
    each = denoiser(x, denoiser.schedule(torch.tensor([1.0, 0.5])))
    for found in (one, each):
        assert torch.equal(found.x0[0], torch.zeros(3))
        torch.testing.assert_close(found.eps[0], x[0])
    assert bool(each.x0[1].any())


def test_names_and_sections_stand_for_components():
    assert dfw.build("objective", "simple", weighting="native") == dfw.build(
        "objective", "simple", weighting=dfw.build("weighting", "native")
    )
    karras = {"name": "karras", "rho": 5.0}
    assert dfw.build("sampler", "heun", grid=karras).grid == dfw.build("grid", "karras", rho=5.0)
    # The schedule, itself a name, is passed on to the weighting that asks for it.
    vlb = dfw.build("objective", "vlb", schedule="cosine", variance="learned_range")
    assert vlb.schedule == dfw.build("schedule", "cosine")
    assert dfw.NetworkDenoiser(lambda x, label, cond: x, "cosine", "v").parameterization == dfw.build(
        "parameterization", "v"
    )
    assert dfw.prior("edm", (1,), torch.ones_like) == 80
    moved = dfw.build("guidance", "rescheduled", denoiser=RIGHT, target="flow")
    assert moved.schedule == dfw.build("schedule", "flow")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: dfw.build("sampler", "ddim", grid="ledaing"), "grid=ledaing: no such grid - did you mean 'leading'"),
        (lambda: dfw.build("sampler", "ddim", grid={"rho": 5}), r"grid=\{'rho': 5\}: it has no name of a component"),
        (lambda: dfw.build("guidance", "autoguidance", denoiser=RIGHT, weak="x"), "weak='x' must be a weaker denoiser"),
    ],
)
def test_a_wrong_name_in_the_place_of_a_component_is_said(wrong, message):
    with pytest.raises(ConfigError, match=message):
        wrong()
