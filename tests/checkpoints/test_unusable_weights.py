"""Weights that a model would take without a word, but that cannot be those of a trained model."""

from __future__ import annotations

import math
import os

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.app.train import train
from diffusion_fw.app.trained_model import open_trained
from diffusion_fw.checkpoints.weights import check_weights
from diffusion_fw.config.application import check_command_line


@pytest.fixture
def saved(trained_content, tmp_path):
    """saved(change) -> the path of the checkpoint with change(key, weights) of each tensor of floats."""

    def make(change):
        weights = {
            key: change(key, value.clone()) if value.is_floating_point() else value
            for key, value in trained_content["state_dict"].items()
        }
        path = tmp_path / "run" / "checkpoints" / "last.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({**trained_content, "state_dict": weights}, path)
        return path

    return make


def filled(value):
    return lambda key, weights: weights.fill_(value)


def one(value):
    """The last value of each bias."""

    def change(key, weights):
        if key.endswith("bias"):
            weights.view(-1)[-1] = value
        return weights

    return change


UNUSABLE = {
    "all NaN": (filled(math.nan), "not finite"),
    "all infinite": (filled(math.inf), "not finite"),
    "some infinite": (one(-math.inf), "not finite"),
    "some NaN": (one(math.nan), "not finite"),
    "too large for float32": (lambda key, weights: weights.double().fill_(1e300), "not finite"),
    "int8": (lambda key, weights: weights.to(torch.int8), "is of type int8, but the model's of float32"),
    "int64": (lambda key, weights: weights.long(), "is of type int64, but the model's of float32"),
    "bool": (lambda key, weights: weights > 0, "is of type bool, but the model's of float32"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_they_are_refused_by_every_way_to_load_a_model(saved, tiny, tmp_path, case):
    change, message = UNUSABLE[case]
    path = saved(change)
    for options in ({}, {"raw_weights": True}):
        with pytest.raises(dfw.ConfigError, match=rf"checkpoint=.*last\.ckpt: .*{message}"):
            dfw.load(path, **options)
    for program in ("sample", "evaluate"):
        with pytest.raises(dfw.ConfigError, match=message):
            open_trained(check_command_line(program, [f"checkpoint={path}", "device=cpu"])[0])
    with pytest.raises(dfw.ConfigError, match=f"init_from=.*{message}"):
        train(tiny({"init_from": os.fspath(path)}), tmp_path / "new")
    with pytest.raises(dfw.ConfigError, match=f"resume=.*{message}"):
        train(tiny({"resume": os.fspath(path)}), tmp_path / "run")


def test_a_second_model_is_refused_too(saved, trained_content, tmp_path):
    torch.save(trained_content, tmp_path / "good.ckpt")
    bad = saved(filled(math.nan))
    arguments = ["guidance=[autoguidance]", f"guidance.autoguidance.checkpoint={bad}", "device=cpu"]
    with pytest.raises(dfw.ConfigError, match=r"the weaker model: .*not finite"):
        open_trained(check_command_line("sample", [f"checkpoint={tmp_path}/good.ckpt", *arguments])[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_floats_of_another_precision_are_read(saved, trained_content, dtype):
    found = dfw.load(saved(lambda key, weights: weights.to(dtype))).state_dict()
    for key, value in found.items():
        expected = trained_content["state_dict"][f"averaged.{key}"]
        torch.testing.assert_close(value, expected.to(dtype).to(value.dtype), rtol=0, atol=0)


def test_other_weights_of_the_file_do_not_matter(saved):
    """An average may have been spoilt by weights of which training has recovered."""
    path = saved(lambda key, weights: weights.fill_(math.nan) if key.startswith("averaged.") else weights)
    dfw.load(path, raw_weights=True)
    with pytest.raises(dfw.ConfigError, match="not finite"):
        dfw.load(path)


def test_a_buffer_may_hold_infinity_from_the_start_and_complex_weights_are_no_floats():
    mask = {"mask": torch.tensor([0.0, -math.inf]), "weight": torch.ones(2)}
    check_weights(mask, mask, "here")
    with pytest.raises(dfw.ConfigError, match="here: weight is of type complex64, but the model's of float32"):
        check_weights({"weight": torch.ones(2, dtype=torch.complex64)}, mask, "here")
