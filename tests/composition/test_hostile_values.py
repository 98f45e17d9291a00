"""Whatever value a key is given, an experiment is built or refused by one line that names the key or its component.

The draws have a seed, and each key gets a few of the values: those of its own kind first.
"""

from __future__ import annotations

import math
import random
import re
import time
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusion_fw import registry
from diffusion_fw.checking.built_ins import SETTINGS
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.config.application import check_command_line
from diffusion_fw.config.groups import STACKED, groups
from diffusion_fw.registry import ConfigError

HUGE, BEYOND = 2**62, 2**31
NUMBERS = [0, -1, math.inf, -math.inf, math.nan, HUGE, BEYOND, 100_000, 1e300, 1e-300, 10**400]
OTHERS: list[Any] = [
    "",
    None,
    "x",
    "nan",
    True,
    [],
    [[]],
    [-1],
    [HUGE],
    [math.nan, math.inf],
    {},
    {"a": 1},
    {"a": {"b": [1]}},
]
SECONDS = 5.0

CLASSIFIER = {f"network.{key}": value for key, value in SETTINGS["network", "adm_classifier"][0].items()}
COMPANIONS: tuple[dict[str, Any], ...] = (
    {},
    {"schedule": "vp"},
    {"schedule": "ve", "parameterization": "score"},
    {"parameterization": "v"},
    {"sampler.steps": 10},
    {"schedule": "edm", "parameterization": "edm"},
    {"variance": "learned_range", "objective": "hybrid"},
    {"data": "moons", "network": "mlp", "network.width": 8, "features": "identity"},
    {"network.class_conditional": True},
    {"objective": "classifier", "metric": "none", "callbacks": ["accuracy"]},
    {"network": "adm_classifier", **CLASSIFIER, "metric": "none", "callbacks": ["accuracy"]},
    {"network": "adm_classifier", **CLASSIFIER, "objective": "classifier", "metric": "none"},
)
"""What a component may need beside it."""
NEVER_BUILT = {"resume", "init_from", "explain", "compile"}
"""Keys that build something else, or nothing."""


def keys() -> list[tuple[str, str]]:
    """(group, component) of all that have keys which train.py can be given."""
    train = registry.GROUPS.keys() & {*groups(), "settings"}
    found = [(group, name) for group in registry.GROUPS if group in train for name in registry.names(group)]
    own = [item for item in found if item[0] != "settings" or item[1] == "train"]
    return [item for item in own if registry.entry(*item).parameters]


@pytest.fixture(scope="module")
def attempt(tiny, tmp_path_factory):
    """attempt(changes) -> the message that refuses them, or None where the experiment is built."""
    folder = tmp_path_factory.mktemp("run")
    images = tmp_path_factory.mktemp("images")
    for index in range(24):
        values = np.random.default_rng(index).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(values).save(images / f"{index}.png")

    def run(changes):
        given = {"data.path": str(images), "data.size": 8} if changes.get("data") == "image_folder" else {}
        data = {key: changes[key] for key in ("data",) if key in changes}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                build_experiment(tiny({**data, **given, **changes}), folder)
        except ConfigError as error:
            return str(error)
        return None

    return run


def path_of(group: str, name: str, key: str) -> str:
    return key if group == "settings" else f"{group}.{name}.{key}" if group in STACKED else f"{group}.{key}"


@pytest.mark.parametrize(("group", "name"), keys(), ids=str)
def test_a_hostile_value_is_built_or_refused_by_its_name(attempt, group, name):
    chosen = {} if group == "settings" else {group: [name] if group in STACKED else name}
    if group == "network" and name != "unet":
        small = SETTINGS.get(("network", name), [{}])[0]
        chosen |= {f"network.{key}": value for key, value in small.items()}
    base = next((both for item in COMPANIONS if attempt(both := {**item, **chosen}) is None), chosen)
    for key, parameter in registry.entry(group, name).parameters.items():
        if group == "settings" and key in NEVER_BUILT:
            continue
        path = path_of(group, name, key)
        source = random.Random(zlib.crc32(path.encode()))
        numeric = any(word in registry.describe(parameter.annotation) for word in ("int", "float"))
        values = [*source.sample(NUMBERS, 5 if numeric else 1), *source.sample(OTHERS, 2 if numeric else 4)]
        for value in values:
            began = time.process_time()
            message = attempt({**base, path: value})
            assert time.process_time() - began < SECONDS, f"{path}={value!r:.100}"
            if message is not None:
                assert "\n" not in message, f"{path}={value!r:.100}"
                named = path in message or re.search(rf"\b{group}\b", message)
                assert named, f"{path}={value!r:.100}: {message}"
                assert "too large, such as" not in message, f"{path}={value!r:.100}: {message}"


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(("group", "name"), keys(), ids=str)
def test_no_number_is_infinite_or_nan_unless_its_range_says_so(group, name, value):
    for key, parameter in registry.entry(group, name).parameters.items():
        if "float" in (wanted := registry.describe(parameter.annotation)) and "list" not in wanted:
            allowed = key in ("s_tmax", "loss_multiple", "gradient_multiple") and value == math.inf
            try:
                registry.convert(parameter.annotation, value)
            except ValueError:
                assert not allowed
            else:
                assert allowed or "str" in wanted, f"{group}={name}: {key}={value}"


WORDS = (
    "optimizer.lr=inf",
    "optimizer.lr=.nan",
    "optimizer.lr=1e400",
    "network.num_res_blocks=4611686018427387904",
    "network.channel_mult=[4611686018427387904]",
    "network.channels=2147483648",
    "sampler.steps=2147483648",
    "trainer.gradient_clip_val=-.inf",
    "callbacks.health.window=2147483648",
    "trainer.max_steps={a: {b: [1]}}",
    "seed=null",
    "label_dropout=nan",
)


@pytest.mark.parametrize("word", WORDS)
def test_the_command_line_refuses_what_no_run_can_take(tiny, word):
    key = word.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"^{key}=.*must be") as error:
        check_command_line("train", [word])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["network.num_res_blocks", "network.channels", "network.channel_mult"])
def test_a_network_beyond_the_machine_is_refused_before_it_takes_memory(tiny, tmp_path, key):
    began = time.process_time()
    with pytest.raises(ConfigError, match=rf"network=unet has more than [\d,]+ (tensors|values), .* lower .*{key}="):
        build_experiment(tiny({key: [100_000] if key.endswith("mult") else 100_000}), tmp_path)
    assert time.process_time() - began < SECONDS
