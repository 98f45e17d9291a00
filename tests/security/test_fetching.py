"""Data of a checkpoint are not fetched: it may be a stranger's."""

from __future__ import annotations

import pytest

from diffusion_fw import registry
from diffusion_fw.composition.own import _check_places, _without_fetching
from diffusion_fw.registry import ConfigError

MNIST = {"dataset_name": "MNIST", "root": "somewhere", "download": True}


def section(name, given, changes):
    return _without_fetching(registry.entry("data", name), given, changes, "data")


def test_a_download_is_asked_for_on_the_command_line_alone():
    assert section("torchvision", MNIST, {}) == {**MNIST, "download": False}
    assert section("torchvision", MNIST, {"download": True}) == MNIST
    _check_places("torchvision", {"download": True, "root": "here"})
    with pytest.raises(ConfigError, match=r"data\.dataset_name=CIFAR10"):
        _check_places("torchvision", {"dataset_name": "CIFAR10"})


def test_a_name_of_the_hub_is_given_on_the_command_line_alone(tmp_path):
    assert section("hf_dataset", {"path": str(tmp_path)}, {}) == {"path": str(tmp_path)}
    assert section("hf_dataset", {"path": "owner/name"}, {"path": "owner/name"}) == {"path": "owner/name"}
    with pytest.raises(ConfigError, match=r"data\.path=owner/name is fetched, and is not taken from a checkpoint"):
        section("hf_dataset", {"path": "owner/name"}, {})


def test_other_data_are_as_they_were():
    assert section("digits", {"augment": 1}, {}) == {"augment": 1}
