"""The factors of learning-rate schedules, by their formulas."""

from __future__ import annotations

import math

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.config.application import check_command_line
from diffusion_fw.config.compose import store_components
from diffusion_fw.registry import ConfigError


def inverse_sqrt(**kwargs):
    return dfw.build("lr_schedule", "inverse_sqrt", **kwargs)


def test_the_rate_rises_linearly_stays_and_falls_as_the_inverse_root_of_the_step():
    factor = inverse_sqrt(warmup_steps=10, reference_steps=100)
    assert [factor(n) for n in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert {factor(n) for n in range(9, 101)} == {1.0}
    assert [factor(n) for n in (200, 400, 10_000)] == pytest.approx([1 / math.sqrt(2), 1 / 2, 1 / 10])


def test_a_warmup_that_is_longer_than_the_reference_is_multiplied_with_the_decay():
    factor = inverse_sqrt(warmup_steps=1000, reference_steps=100)
    assert factor(399) == pytest.approx(0.4 / math.sqrt(3.99))


def test_without_warmup_the_first_step_has_the_whole_rate():
    assert inverse_sqrt(warmup_steps=0)(0) == 1.0


def test_the_paper_ends_with_a_quarter_of_the_rate():
    """EDM2-S at 512: 2^31 examples in batches of 2048, 70,000 steps of reference."""
    assert inverse_sqrt()(2**20) == pytest.approx(math.sqrt(70_000 / 2**20))


@pytest.mark.parametrize("key", ["reference_steps", "warmup_steps"])
def test_a_number_of_steps_is_not_negative(key):
    with pytest.raises(ConfigError, match=rf"lr_schedule\.{key}=-1"):
        inverse_sqrt(**{key: -1})
    if key == "reference_steps":
        with pytest.raises(ConfigError, match=r"lr_schedule\.reference_steps=0"):
            inverse_sqrt(reference_steps=0)


def test_the_optimizer_follows_it(tiny, tmp_path):
    changes = {"lr_schedule": "inverse_sqrt", "lr_schedule.warmup_steps": 0, "lr_schedule.reference_steps": 1}
    module = build_experiment(tiny({**changes, "optimizer.lr": 1e-3}), tmp_path).module
    found = module.configure_optimizers()
    optimizer, scheduler = found["optimizer"], found["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert torch.tensor(rates) * 1e3 == pytest.approx(torch.tensor([1.0, 1.0, 2, 3, 4]) ** -0.5)


def test_the_experiment_of_edm2_is_built_with_the_paper_s_choices(tmp_path):
    store_components()
    words = ["experiment=edm2", f"metric.cache_dir={tmp_path}", "network.channels=8", "network.num_head_channels=8"]
    (config,) = check_command_line("train", words)
    chosen = {key: config[key]["name"] for key in ("network", "objective", "parameterization", "ema", "lr_schedule")}
    assert list(chosen.values()) == ["edm2_unet", "uncertainty", "edm", "post_hoc", "inverse_sqrt"]
    experiment = build_experiment(config, tmp_path)
    optimizer = experiment.module.configure_optimizers()["optimizer"]
    assert (optimizer.defaults["betas"], optimizer.defaults["weight_decay"]) == ((0.9, 0.99), 0.0)
    assert experiment.trainer.gradient_clip_val in (None, 0.0)
    batch = torch.rand(4, 1, 8, 8), torch.arange(4)
    assert experiment.module.denoiser.network(batch[0], torch.zeros(4), batch[1]).shape == (4, 1, 8, 8)


def test_a_warm_up_is_edms_ramp_over_images_one_step_ahead():
    """EDM multiplies the rate by min(i / 10 M, 1) after i images, so that its first step does nothing."""
    constant = dfw.build("lr_schedule", "constant", max_steps=400_000, warmup_steps=10_000_000 // 512)
    for step in (1, 2, 100, 19_000, 19_531, 19_532, 300_000):
        assert constant(step - 1) == pytest.approx(min(step * 512 / 10e6, 1), rel=2e-5)


def test_a_linear_decay_rises_to_the_rate_and_falls_to_the_final_factor():
    factor = dfw.build("lr_schedule", "linear", max_steps=110, warmup_steps=10, final=0.2)
    assert [factor(n) for n in (0, 9, 10, 60, 110, 500)] == pytest.approx([0.1, 1.0, 1.0, 0.6, 0.2, 0.2])
