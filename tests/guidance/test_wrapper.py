"""What holds for every guidance: both ends move together, and nothing else of the wrapped denoiser changes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw import registry
from diffusion_fw.guidance.operators import Mask
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.process.schedules.continuous import VP, Flow

KNOWN = torch.tensor([True, False, True, False])
VALUES = torch.tensor([0.7, 0.0, -0.2, 0.0], dtype=torch.float64)
SPECTRUM = (0.05, 0.3, 0.5, 0.7, 0.9, 1.0)


def facts(name, tools, denoiser):
    return {
        "classifier_free": {"num_classes": 3, "rescale": 0.4, "interval": [0.2, 0.8]},
        "classifier": {"classifier": tools.Mixture(denoiser.schedule).log_joint},
        "autoguidance": {"weak": tools.Mixture(denoiser.schedule, stds=torch.full((3,), 0.8, dtype=torch.float64))},
        "rescheduled": {"target": Flow()},
        "replacement": {"operator": Mask(KNOWN), "measurement": VALUES},
        "imputation": {"operator": Mask(KNOWN), "measurement": VALUES, "noise": torch.ones_like},
        "posterior": {"operator": Mask(KNOWN), "measurement": VALUES, "noise_std": 0.1},
        "clip": {"data_range": (-0.5, 0.6)},
        "dynamic_threshold": {"data_range": (-0.5, 0.6), "percentile": 0.6},
    }[name]


NAMES = [
    name for name, item in registry.entries("guidance").items() if item.factory.__module__.startswith("diffusion_fw.g")
]


@pytest.fixture(params=NAMES)
def wrapped(request, tools):
    denoiser = tools.Mixture(learned_variance=True)
    return dfw.build("guidance", request.param, denoiser=denoiser, **facts(request.param, tools, denoiser))


def test_both_ends_still_rebuild_x_at_one_level_and_at_a_level_an_example(wrapped, tools):
    x, cond = tools.draw(), tools.labels()
    for t in (0.05, 0.5, 0.95):
        level = wrapped.schedule(tools.times(t))
        assert tools.residual(x, level, wrapped(x, level, cond)) < 1e-12
    level = wrapped.schedule(tools.times(*SPECTRUM))
    assert tools.residual(x, level, wrapped(x, level, cond)) < 1e-12


def test_an_example_does_not_depend_on_the_rest_of_its_batch(wrapped, tools):
    x, cond = tools.draw(), tools.labels()
    together = wrapped(x, wrapped.schedule(tools.times(*SPECTRUM)), cond)
    for i, t in enumerate(SPECTRUM):
        alone = wrapped(x[i : i + 1], wrapped.schedule(tools.times(t)), cond[i : i + 1])
        torch.testing.assert_close(alone.x0[0], together.x0[i], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(alone.eps[0], together.eps[i], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_of_x_is_kept(wrapped, tools, dtype):
    for t in (tools.times(0.5), tools.times(*SPECTRUM)):
        prediction = wrapped(tools.draw().to(dtype), wrapped.schedule(t), tools.labels())
        assert prediction.x0.dtype == prediction.eps.dtype == dtype


def test_the_wrapped_models_variance_is_kept(wrapped, tools):
    x, level = tools.draw(), wrapped.schedule(tools.times(0.5))
    logit = wrapped(x, level, tools.labels()).variance_logit
    own = tools.Mixture(wrapped.schedule, learned_variance=True)
    # Classifier guidance alone evaluates its model without the label.
    labels = None if hasattr(wrapped, "classifier") else tools.labels()
    torch.testing.assert_close(logit, own(x, level, labels).variance_logit)


def test_a_step_never_waits_for_the_device(wrapped, tools):
    class Meta:
        schedule = VP()

        def __call__(self, x, level, cond=None):
            return Prediction(2 * x, x)

    changes = {"denoiser": Meta()}
    for key, value in (("weak", Meta()), ("classifier", lambda x, level: x), ("measurement", VALUES.to("meta"))):
        if hasattr(wrapped, key):
            changes[key] = value
    guidance = dataclasses.replace(wrapped, **changes)
    # A tensor without values raises where one is read on the host.
    x, cond = torch.empty(6, 4, device="meta"), torch.empty(6, dtype=torch.int64, device="meta")
    assert guidance(x, guidance.schedule(tools.times(0.5)), cond).eps.is_meta


def test_sampling_records_no_gradients_and_works_in_inference_mode(wrapped, tools):
    sampler = dfw.build("sampler", "ddim", steps=4)
    x, cond = tools.draw(), tools.labels()
    plain = sampler(wrapped, x, cond=cond)
    with torch.inference_mode():
        inferred = sampler(wrapped, x.clone(), cond=cond)
    assert not plain.requires_grad
    assert plain.isfinite().all()
    torch.testing.assert_close(plain, inferred.clone(), rtol=0, atol=0)


def test_the_guided_flow_can_be_differentiated(wrapped, tools):
    x, tangent, cond = tools.draw(), tools.draw(seed=1), tools.labels()
    level, step = wrapped.schedule(tools.times(0.5)), 1e-6
    _, exact = torch.func.jvp(lambda x: wrapped(x, level, cond).eps, (x,), (tangent,))
    difference = wrapped(x + step * tangent, level, cond).eps - wrapped(x - step * tangent, level, cond).eps
    torch.testing.assert_close(exact, difference / (2 * step), rtol=1e-5, atol=1e-6)
    x.requires_grad_()
    (reverse,) = torch.autograd.grad((wrapped(x, level, cond).eps * tangent).sum(), x)
    torch.testing.assert_close((reverse * tangent).sum(), (exact * tangent).sum())


def test_no_signal_at_all_gives_no_nan(tools):
    for name in NAMES:
        denoiser = tools.Mixture(Flow())
        guidance = dfw.build("guidance", name, denoiser=denoiser, **facts(name, tools, denoiser))
        level = guidance.schedule(tools.times(1.0))
        assert level.alpha == 0
        prediction = guidance(tools.draw(), level, tools.labels())
        assert prediction.x0.isfinite().all()
        assert tools.residual(tools.draw(), level, prediction) < 1e-12


def test_wrappers_nest_and_the_last_is_outermost(tools):
    denoiser = tools.Mixture()
    guided = dfw.build("guidance", "classifier_free", denoiser=denoiser, num_classes=3, scale=6.0)
    clipped = dfw.build("guidance", "clip", denoiser=guided)
    other = dfw.build(
        "guidance",
        "classifier_free",
        denoiser=dfw.build("guidance", "clip", denoiser=denoiser),
        num_classes=3,
        scale=6.0,
    )
    x, level, cond = 3 * tools.draw(), VP()(tools.times(0.5)), tools.labels()
    assert guided(x, level, cond).x0.abs().max() > 1
    torch.testing.assert_close(clipped(x, level, cond).x0, guided(x, level, cond).x0.clamp(-1, 1), rtol=0, atol=0)
    assert other(x, level, cond).x0.abs().max() > 1
    assert tools.residual(x, level, clipped(x, level, cond)) < 1e-12


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("classifier", r"it needs a classifier, which sample\.py and evaluate\.py load"),
        ("posterior", r"it needs a measurement; give guidance\.posterior\.image=.*posterior\.file=FILE\.npz"),
        (
            "replacement",
            r"it needs a measurement; give guidance\.replacement\.image=.*replacement\.file=FILE\.npz",
        ),
    ],
)
def test_what_is_missing_is_named(name, message, tools):
    with pytest.raises(dfw.ConfigError, match=message):
        dfw.build("guidance", name, denoiser=tools.Mixture())
