"""The papers' full-size experiments: their values are the published ones, their networks fit, and they train."""

from __future__ import annotations

import copy
import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from examples import complete

from diffusion_fw import registry
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.config.application import check_command_line
from diffusion_fw.config.compose import checked, choices

PUBLISHED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "published.json").read_text())
"""For each experiment [what the source calls it, its value there, our key, the factor to our value or a time]."""

SIZES = {"cifar10": 32, "celebahq": 256, "lsun": 256, "imagenet64": 64}

SHRUNK = {
    "adm_unet": {"channels": 8, "num_res_blocks": 1, "num_head_channels": None, "num_heads": 1},
    "ddpm_unet": {"channels": 4, "num_res_blocks": 1},
    "ddpmpp": {"channels": 4, "num_res_blocks": 1},
    "edm2_unet": {"channels": 8, "num_res_blocks": 1, "num_head_channels": 8},
    "ncsn": {"channels": 4},
    "ncsnpp": {"channels": 4, "num_res_blocks": 1},
    "ncsnv2": {"channels": 4},
}


@functools.cache
def composed(name: str) -> dict[str, Any]:
    (config,) = check_command_line(
        "train", [f"experiment={name}", *(() if "cifar10" in name else ("data.path=images",))]
    )
    return config


def recipe(name: str) -> dict[str, Any]:
    return copy.deepcopy(composed(name))


def built(config: dict[str, Any], group: str, **runtime: Any) -> Any:
    """The component of a group, given those of the runtime arguments that it takes."""
    section = dict(config[group])
    name = section.pop("name")
    taken = registry.entry(group, name).arguments
    return registry.build(group, name, **section, **{key: value for key, value in runtime.items() if key in taken})


def value_of(config: dict[str, Any], key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = found[int(part)] if part.isdigit() else found[part]
    return found


def label_of(config: dict[str, Any], time: float) -> float:
    """The time label of row ``time`` of a table, or at ``time`` of a continuous schedule."""
    schedule = built(config, "schedule")
    t = torch.tensor([time / config["schedule"].get("num_steps", 1)], dtype=torch.float64)
    _, label = built(config, "parameterization").input(schedule(t))
    return float(label)


def shape_of(name: str) -> tuple[int, int, int]:
    size = next(size for part, size in SIZES.items() if part in name)
    return (3, size, size)


def test_every_full_size_experiment_is_compared_with_its_source():
    full = {name for name in choices("experiment") if any(part in name for part in SIZES)}
    assert full == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_values_are_the_published_ones(name):
    config = recipe(name)
    for what, published, key, *factor in PUBLISHED[name]["settings"]:
        if key == "label":
            assert label_of(config, *factor) == pytest.approx(published, abs=1e-9), what
        elif isinstance(published, str):
            assert value_of(config, key) == published, what
        elif isinstance(value_of(config, key), int):
            assert value_of(config, key) == round(published * math.prod(factor)), what
        else:
            assert value_of(config, key) == pytest.approx(published * math.prod(factor), rel=2e-6), what


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_network_has_the_published_number_of_parameters(name):
    config, published = recipe(name), PUBLISHED[name]
    facts = {"shape": shape_of(name), "num_classes": published.get("classes", 0)}
    with torch.device("meta"):
        parts = [built(config, "network", **facts, outputs=built(config, "variance").outputs)]
        if config["objective"]["name"] == "uncertainty":
            parts.append(built(config, "objective", weighting=None))
    count = sum(item.numel() for part in parts for item in part.parameters() if item.requires_grad)
    assert count == published["parameters"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_trains_with_a_small_network(name, tmp_path):
    config = recipe(name)
    config |= {"data": complete("data", "emoji"), "features": complete("features", "pixels"), "batch_size": 2}
    config |= {"callbacks": {}, "logger": {}}
    config["network"] |= SHRUNK[config["network"]["name"]]
    config["trainer"] |= {"max_steps": 2, "accelerator": "cpu", "log_every_n_steps": 1}
    experiment = build_experiment(checked("train", config), tmp_path)
    before = [value.clone() for value in experiment.denoiser.network.parameters()]
    experiment.trainer.fit(experiment.module)
    assert experiment.trainer.global_step == 2
    after = list(experiment.denoiser.network.parameters())
    assert all(value.isfinite().all() for value in after)
    assert any(not torch.equal(*pair) for pair in zip(before, after, strict=True))
