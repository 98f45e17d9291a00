"""Classifier-free guidance by what is told: what the second evaluation is not told, and what cannot be left out."""

from __future__ import annotations

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.condition import CLASS, Condition, Told
from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.registry import ConfigError

ALWAYS_LEFT_OUT = {"a": True, "b": True, CLASS: True}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = dfw.build(
        "network", "mlp", shape=(2,), num_classes=3, vectors={"a": 1, "b": 2}, class_conditional=True, width=16
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    schedule = dfw.build("schedule", "vp")
    return NetworkDenoiser(network.eval(), schedule, dfw.build("parameterization", "epsilon"), (-1.0, 1.0))


def batch():
    source = torch.Generator().manual_seed(0)
    cond = Condition(
        {
            "a": Told(torch.randn(4, 1, generator=source), torch.tensor([True, True, False, True])),
            "b": Told.all(torch.randn(4, 2, generator=source)),
            CLASS: Told.all(torch.tensor([0, 1, 2, 0])),
        }
    )
    return torch.randn(4, 2, generator=source), cond


def guided(model, **parameters):
    return dfw.build("guidance", "classifier_free", denoiser=model, **{"num_classes": 3, **parameters})


@torch.no_grad()
@pytest.mark.parametrize("drop", [["a"], ["b"], [CLASS], ["a", CLASS], None])
def test_it_is_the_extrapolation_from_the_model_without_what_is_dropped(model, drop):
    x, cond = batch()
    level = model.schedule(torch.tensor(0.6, dtype=torch.float64))
    found = guided(model, told=ALWAYS_LEFT_OUT, drop=drop, scale=2.5)(x, level, cond)
    told, less = model(x, level, cond), model(x, level, cond.without(drop or list(cond.parts)))
    torch.testing.assert_close(found.x0, less.x0 + 2.5 * (told.x0 - less.x0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.eps, less.eps + 2.5 * (told.eps - less.eps), rtol=1e-4, atol=1e-4)
    if drop == ["a"]:
        # The third example is not told it at all.
        torch.testing.assert_close(found.x0[2], told.x0[2], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_without_drop_it_leaves_out_all_that_training_left_out_and_no_more(model):
    x, cond = batch()
    level = model.schedule(torch.tensor(0.6, dtype=torch.float64))
    own = guided(model, told={"a": True, "b": False, CLASS: False}, scale=3.0)
    assert own.dropped == ("a",)
    less = model(x, level, cond.without(["a"]))
    wanted = less.x0 + 3 * (model(x, level, cond).x0 - less.x0)
    torch.testing.assert_close(own(x, level, cond).x0, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("told", "drop", "message"),
    [
        (ALWAYS_LEFT_OUT, ["c"], r"drop=\['c'\]: the model is never told c; choose from a, b, class"),
        ({"a": True, "b": False}, ["b"], r"drop=\['b'\]: the model is always told b; choose from a"),
        ({"a": False}, ["a"], r"drop=\['a'\]: the model is always told a; train with label_dropout=0\.1 or so"),
        ({}, None, r"needs a class-conditional model, and this one has no classes.* or a condition=\[\.\.\.\]"),
    ],
)
def test_what_the_model_never_went_without_cannot_be_dropped(model, told, drop, message):
    with pytest.raises(ConfigError, match=message):
        guided(model, told=told, drop=drop, num_classes=0)


def test_a_model_of_conditions_alone_is_guided(model):
    assert guided(model, told={"a": True}, num_classes=0).dropped == ("a",)
