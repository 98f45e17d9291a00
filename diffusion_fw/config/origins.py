"""Where each value of a composed config comes from, by Hydra's own defaults list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.types import RunMode
from omegaconf import OmegaConf

from diffusion_fw.config.application import Asked
from diffusion_fw.config.compose import flatten
from diffusion_fw.config.groups import stacked

COMMAND_LINE = "command line"
OTHER = ("defaults", "hydra")
"""The keys of a file in conf/ that are no part of the config."""


def origins(asked: Asked) -> dict[str, str]:
    """The origin of every key of the config: the command line, a file of conf/, or a signature.

    A group's own key has the origin of its choice. Of a sweep, the first job counts.
    """
    overrides = next(asked.jobs())
    composed = asked.loader.compute_defaults_list(asked.config_name, overrides, RunMode.RUN)
    sources = asked.sources()
    choosers = {
        group: COMMAND_LINE if item.external_override else f"conf/{item.containing_config_path}.yaml"
        for group, item in composed.overrides.override_metadata.items()
    }
    result = dict(choosers)
    # In the order in which Hydra merges: a later origin replaces an earlier one.
    for default in composed.defaults:
        path, package = default.config_path, default.package or ""
        if path is None or path.startswith("hydra/"):
            continue
        source = next(source for source in sources if source.is_config(path))
        loaded = source.load_config(path)
        stored = source.scheme() == "structured"
        chooser = f"conf/{default.parent}.yaml"
        # What a preset builds on is chosen by the preset, whoever chose that one.
        if (group := _group(path)) != _group(default.parent or ""):
            chooser = choosers.get(group, chooser)
        result[package] = chooser
        whole: dict[str, Any] = OmegaConf.to_container(loaded.config)  # type: ignore[assignment]
        content = {key: value for key, value in whole.items() if key not in OTHER}
        for key, _ in flatten(content):
            folder = "conf" if source.provider == "main" else source.path
            origin = loaded.provider if stored else f"{folder}/{path}.yaml"
            result[f"{package}.{key}".lstrip(".")] = chooser if stored and key == "name" else origin
    for override in composed.config_overrides:
        result.update((key, COMMAND_LINE) for key, _ in flatten({override.key_or_group: override.value()}))
        # A key of a stack is that of all components that have it.
        group, _, name = override.key_or_group.partition(".")
        if group in stacked(asked.program):
            alike = [key for key in result if key.startswith(f"{group}.") and key.endswith(f".{name}")]
            result.update(dict.fromkeys(alike, COMMAND_LINE))
    return result


def _group(path: str) -> str:
    return path.rpartition("/")[0]


def origin_of(key: str, known: Mapping[str, str]) -> str:
    """The origin of a key, or of the nearest key above it that has one."""
    while key not in known and "." in key:
        key = key.rpartition(".")[0]
    return known.get(key, "")
