"""What a checkpoint says about a denoiser that was put together in Python, so that it can be built again."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import torch

from diffusion_fw import registry
from diffusion_fw.composition.experiment import checkpoint_record, plain
from diffusion_fw.composition.facts import Facts
from diffusion_fw.composition.parts import build_model
from diffusion_fw.data.dataset import Data
from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.networks.network import is_class_conditional
from diffusion_fw.registry import ConfigError

MODEL = ("network", "schedule", "parameterization")
FURTHER = ("variance", "sampler", "grid", "data")
"""The groups of which a description may have a component besides."""

logger = logging.getLogger(__name__)


def described(
    denoiser: NetworkDenoiser, data: Data | str | None, facts: Mapping[str, Any], sections: Mapping[str, Any]
) -> dict[str, Any]:
    """The record of a denoiser: config, facts and plugins. See ``diffusion_fw.save`` for the arguments.

    Raises TypeError for what is no NetworkDenoiser, and ConfigError for one that cannot be built again from it.
    """
    if not isinstance(denoiser, NetworkDenoiser):
        raise TypeError(
            f"only a NetworkDenoiser can be saved, not a {type(denoiser).__name__}; of a guidance, save the denoiser "
            "that it wraps"
        )
    before = denoiser.record or {"config": {}, "facts": {}}
    given = {key: value for key, value in sections.items() if key != "label_dropout"}
    for group in given:
        if group not in (*MODEL, *FURTHER):
            known = ", ".join((*MODEL, *FURTHER))
            raise ConfigError(
                f"{group}=...: a model is not described by it{registry.nearest(group, known.split(', '))}"
                f"; what it is described by: {known}"
            )
    examples: Data | None = None if data is None else registry.as_component("data", data)
    if registry.section_of(examples) is not None:
        given["data"] = examples
    if "sampler" in given and "grid" not in given and (grid := getattr(given["sampler"], "grid", None)) is not None:
        given["grid"] = grid
    config = dict(before["config"])
    if examples is not None and "data" not in given:
        # Data without a section of a config are not those of the model that was loaded.
        config.pop("data", None)
    for group in MODEL:
        if group in given or group not in config:
            config[group] = section(group, given.get(group, getattr(denoiser, group)))
    for group in FURTHER:
        if group in given:
            config[group] = section(group, given[group])
    if sections.get("label_dropout"):
        config["label_dropout"] = float(sections["label_dropout"])
    record = {**before, **checkpoint_record(config, facts_of(denoiser, examples, facts, before["facts"], config))}
    record["plugins"] = {**before.get("plugins", {}), **record["plugins"]}
    check(denoiser, record)
    return record


def section(group: str, given: Any) -> dict[str, Any]:
    """The section of a config for a component, its name, or some of its keys; ConfigError where it is not known."""
    found = {"name": given} if isinstance(given, str) else given
    kind = type(given)
    names = [name for name, entry in registry.entries(group).items() if entry.factory is kind]
    if not isinstance(found, Mapping):
        found = registry.section_of(given)
    if found is None and names and dataclasses.is_dataclass(given):
        # Its fields say how it was made.
        found = {"name": names[-1], **{key: getattr(given, key) for key in registry.entry(group, names[-1]).parameters}}
    if found is None:
        name = names[0] if names else "mine"
        registered = "" if names else f'register it in a plugin by @dfw.register("{group}", "{name}"), and '
        raise ConfigError(
            f"{group}: a {kind.__name__} that dfw.build has not made cannot be built again from a file; {registered}"
            f'build it by dfw.build("{group}", "{name}", ...), or describe it by {group}={{"name": "{name}", ...}} '
            "with its parameters"
        )
    entry = registry.entry(group, str(found.get("name")))
    values = registry.validate(group, entry.name, {key: value for key, value in found.items() if key != "name"})
    if entry.factory.__module__ == "__main__":
        logger.warning(
            "%s=%s is registered in this session alone; programs find it in a file in plugins/", group, entry.name
        )
    defaults = {key: item.default for key, item in entry.parameters.items() if not item.required}
    result: dict[str, Any] = plain({"name": entry.name, **defaults, **values})
    return result


def facts_of(
    denoiser: NetworkDenoiser,
    data: Data | None,
    given: Mapping[str, Any],
    before: Mapping[str, Any],
    config: Mapping[str, Any],
) -> Facts:
    """What the model knows of its data: of the data set, or as ``given``, or as it was loaded."""
    stated = {key: value for key, value in given.items() if value not in (None, ())}
    if data is not None:
        if stated:
            raise ConfigError(f"{', '.join(stated)} and data are both given; the data set says it")
        return Facts.of(data, config)
    if before and not stated:
        return Facts.from_record(before)
    shape = stated.get("shape")
    bounds = stated.get("bounds", denoiser.bounds)
    if shape is None or bounds is None:
        missing = " and ".join(key for key, value in (("shape", shape), ("bounds", bounds)) if value is None)
        raise ConfigError(
            f"{missing}: the denoiser does not say what its examples are; give data=..., or shape=(C, H, W) and "
            "bounds=(low, high), the smallest and the largest value that it sees"
        )
    names = tuple(stated.get("class_names") or ())
    if is_class_conditional(denoiser.network) and not names:
        raise ConfigError("class_names: the network takes classes; give their names, in the order of the labels")
    images = len(shape) == 3 and shape[0] in (1, 3) and tuple(bounds) == (-1, 1)
    pixels = stated.get("pixels", images)
    return Facts.from_record(
        {
            "shape": list(shape),
            "num_classes": len(names),
            "class_names": list(names),
            "data_range": [float(bound) for bound in bounds],
            "pixels": bool(pixels),
        }
    )


def check(denoiser: NetworkDenoiser, record: Mapping[str, Any]) -> None:
    """ConfigError unless a record describes this model: its weights, its schedule and what its network regresses."""
    facts = Facts.from_record(record["facts"])
    with torch.random.fork_rng(devices=[]):
        again = build_model(record["config"], facts)
    if not isinstance(again, NetworkDenoiser):
        raise ConfigError(f"network={record['config']['network']['name']} is not the network of a denoiser")
    own, other = ({key: tuple(value.shape) for key, value in model.state_dict().items()} for model in (denoiser, again))
    different = [key for key in own.keys() | other.keys() if own.get(key) != other.get(key)]
    if different:
        key = min(different)
        raise ConfigError(
            f"network={record['config']['network']}: it would be built with other weights than this model has, such as "
            f"{key}, {_shape(other.get(key))} where the model has {_shape(own.get(key))}; give the right shape or data"
        )
    times = denoiser.schedule.fraction(torch.linspace(0, 1, 9, dtype=torch.float64))
    level, level_again = denoiser.schedule(times), again.schedule(times)
    what, what_again = denoiser.parameterization, again.parameterization
    for group, pairs in {
        "schedule": (level.tensors(), level_again.tensors()),
        "parameterization": (
            [*what.coefficients(level), *what.input(level)],
            [*what_again.coefficients(level), *what_again.input(level)],
        ),
    }.items():
        if not all(map(torch.allclose, *pairs)):
            raise ConfigError(f"{group}={record['config'][group]} is not that of this model")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else str(shape)
