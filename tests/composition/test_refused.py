"""What is only found when an experiment is built is one message too."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffusion_fw.composition.checks import check_velocity
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.composition.parts import compose_parts
from diffusion_fw.config.application import check_command_line
from diffusion_fw.config.compose import store_components
from diffusion_fw.registry import ConfigError


@pytest.fixture(scope="module")
def constant(tmp_path_factory):
    """A folder of images that are all the same."""
    folder = tmp_path_factory.mktemp("constant")
    for index in range(24):
        Image.fromarray(np.full((8, 8, 3), 100, np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("words", [["experiment=ncsnv2"], ["experiment=score_sde_ve"], ["experiment=edm"]])
def test_data_without_a_spread_cannot_scale_a_schedule(constant, tmp_path, words):
    store_components()
    given = ["data=image_folder", f"data.path={constant}", "data.size=8", "batch_size=4", "metric.num_samples=4"]
    if "experiment=edm" in words:
        words = ["parameterization=edm", "parameterization.sigma_data=auto", "schedule=edm"]
    (config,) = check_command_line("train", [*given, *words])
    with pytest.raises(ConfigError, match=r"data=image_folder: its data_(diameter|std) is 0, .*the keys that are auto"):
        build_experiment(config, tmp_path)


@pytest.mark.parametrize("devices", [0, -1, -2, [], [0]])
def test_a_number_of_devices_that_the_cpu_has_not_is_one_message(tiny, tmp_path, devices):
    with pytest.raises(ConfigError, match=r"trainer\.devices=.*: must be the number of devices, at least 1, or auto"):
        build_experiment(tiny({"trainer.devices": devices}), tmp_path)


@pytest.mark.parametrize("key", ["sampler.steps", "network.channels", "time_sampler.history", "schedule.num_steps"])
def test_a_size_beyond_any_memory_is_one_message(tiny, tmp_path, key):
    changes = {"time_sampler": "loss_aware"} if key.startswith("time") else {}
    with pytest.raises(ConfigError):
        build_experiment(tiny({**changes, key: 2**62}), tmp_path)


FLOW = {"schedule": "flow", "parameterization": "flow"}


@pytest.mark.parametrize("given", [(0.01, 0.0), (0.0, 0.01), (1e-5, 1e-4)], ids=str)
def test_a_velocity_of_another_path_than_the_schedule_is_refused(tiny, given):
    path, velocity = given
    config = tiny({**FLOW, "schedule.sigma_min": path, "parameterization.sigma_min": velocity})
    with pytest.raises(ConfigError, match=r"^parameterization\.sigma_min=\S+ is not schedule\.sigma_min=\S+,"):
        compose_parts(config)


def test_a_velocity_of_the_schedule_of_a_run_without_sigma_min_or_of_another_path_is_accepted():
    flow = {"name": "flow"}
    check_velocity({"schedule": flow, "parameterization": flow})
    check_velocity({"schedule": {**flow, "sigma_min": 0.01}, "parameterization": {**flow, "sigma_min": 0.01}})
    check_velocity({"schedule": {"name": "edm", "sigma_min": 0.002}, "parameterization": {**flow, "sigma_min": 0.0}})
    check_velocity({"schedule": {**flow, "sigma_min": 0.01}, "parameterization": {"name": "v"}})
