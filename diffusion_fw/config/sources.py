"""The config files that Hydra reads: those of experiments and of other folders hold values alone, whoever wrote them.

Hydra makes objects of what its own node names, and OmegaConf's resolvers read the environment, so a file with more than
values is code. The command line may hold both, and so may the presets of conf/ and of the folders that the environment
names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins import file_config_source, importlib_resources_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from diffusion_fw import registry
from diffusion_fw.config.groups import CONF_VARIABLE, conf_dir, named_conf_dirs

VALUE = re.compile(r"\$\{\s*\.*(?!hydra\b)[A-Za-z_]\w*(\.\w+)*\s*\}")
"""A reference to another value of the config: no resolver, nothing nested, nothing of Hydra's own node."""


SWEEP_KEYS = {"params", "max_batch_size", "n_trials", "sampler", "pruner", "seed", "parallel"}
"""What a file may say of a sweep, in hydra.sweeper; with hydra.mode, all that it may say in Hydra's own node."""


STORED = (registry.OWN, "none", "auto")
"""Choices that mean the same in every group that has them."""


class ConfigFileError(HydraException):
    """A config file that cannot be read, or holds more than values."""


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's reader of a folder. Raises ConfigFileError for more than values in what is no preset of the user."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path)).resolve()
        trusted = any(
            own in path.parents and own / "experiment" not in path.parents
            for own in (folder.resolve() for folder in (conf_dir(), *named_conf_dirs()))
        )
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        if group in registry.GROUPS and name in (*STORED, *registry.names(group)):
            raise ConfigFileError(
                f"{path} has the name of a registered component, {group}={name}; rename the file, for example "
                f"my_{name}.yaml, and choose {group}=my_{name}"
            )
        return _load(super().load_config, config_path, os.fspath(path), trusted=trusted)


class ImportlibResourcesConfigSource(importlib_resources_config_source.ImportlibResourcesConfigSource):
    """Hydra's reader of a package. Raises ConfigFileError for more than values in a package that is not Hydra's own."""

    def load_config(self, config_path: str) -> ConfigResult:
        own = self.path.partition(".")[0] in ("hydra", "hydra_plugins")
        return _load(super().load_config, config_path, f"{self.full_path()}/{config_path}", trusted=own)


def check_files() -> None:
    """Have Hydra read config files by the classes above, here and in the processes of a sweep.

    They have the names of Hydra's own classes, which it therefore doesn't put in their place.
    """
    SourcesRegistry.instance().types.update(file=FileConfigSource, pkg=ImportlibResourcesConfigSource)


def _load(load: Any, config_path: str, path: str, *, trusted: bool) -> ConfigResult:
    try:
        result: ConfigResult = load(config_path)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigFileError(f"{path} cannot be read: {error}") from None
    reason = None if trusted else next(_reasons(config_path, result), None)
    if reason:
        raise ConfigFileError(
            f"{path} {reason}: such a file may hold values for the groups alone, and a sweep's hydra.mode and "
            "hydra.sweeper.params, as a stranger may have written it; give the rest on the command line, or in a "
            f"preset of your own, such as launcher/NAME.yaml in a folder that {CONF_VARIABLE} names"
        )
    return result


def _reasons(config_path: str, result: ConfigResult) -> Iterator[str]:
    """What in a config file is more than values."""
    content = OmegaConf.to_container(result.config, resolve=False)
    package = result.header.get("package") or ""
    places = [config_path, package]
    if isinstance(content, dict):
        sweep = _kept_sweep(content.get("hydra")) if package in ("", "_global_") else None
        places += [str(key) for key in content if sweep is None or key != "hydra"]
        places += _words(content.get("defaults"))
        places += _words(sweep)
    if any("hydra" in re.split(r"\W+", place) for place in places):
        yield "changes the settings of Hydra, which can run code"
    if isinstance(content, dict) and any("@" in word for word in _words(content.get("defaults"))):
        # Hydra expands _group_ and _name_ there, so that group hyd with _group_ra is its own node.
        yield "puts a choice elsewhere by @, which can be the settings of Hydra"
    for word in _words(content):
        if word == "_target_":
            yield "has the key _target_, which names code to run"
        elif "${" in VALUE.sub("", word):
            yield f"has {word!r:.100}, which looks up more than a value of the config"


def _kept_sweep(node: Any) -> Any:
    """What the node ``hydra`` of a file says of a sweep, if it says nothing else: the overrides are values too."""
    if not isinstance(node, dict) or not node.keys() <= {"mode", "sweeper"}:
        return None
    sweeper = node.get("sweeper", {})
    return node if isinstance(sweeper, dict) and sweeper.keys() <= SWEEP_KEYS else None


def _words(content: Any) -> Iterator[str]:
    """Every key and every text in a config."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _words(key)
            yield from _words(value)
    elif isinstance(content, list):
        for value in content:
            yield from _words(value)
