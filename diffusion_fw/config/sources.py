"""The config files that Hydra reads: those of experiments and of other folders hold values alone, whoever wrote them.

Hydra makes objects of what its own node names, and OmegaConf's resolvers read the environment, so a file with more than
values is code. The command line and the presets of conf/ may hold both.
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

from diffusion_fw.config.groups import conf_dir

VALUE = re.compile(r"\$\{\s*\.*(?!hydra\b)[A-Za-z_]\w*(\.\w+)*\s*\}")
"""A reference to another value of the config: no resolver, nothing nested, nothing of Hydra's own node."""


class ConfigFileError(HydraException):
    """A config file that cannot be read, or holds more than values."""


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's reader of a folder. Raises ConfigFileError for more than values in a file that is no preset of conf/."""

    def load_config(self, config_path: str) -> ConfigResult:
        path, own = Path(self.path, self._normalize_file_name(config_path)).resolve(), conf_dir().resolve()
        preset = own in path.parents and own / "experiment" not in path.parents
        return _load(super().load_config, config_path, os.fspath(path), trusted=preset)


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
            f"{path} {reason}: such a file may hold values for the groups alone, as a stranger may have written it; "
            "give the rest on the command line or in a preset of your own in conf/, such as conf/launcher/NAME.yaml"
        )
    return result


def _reasons(config_path: str, result: ConfigResult) -> Iterator[str]:
    """What in a config file is more than values."""
    content = OmegaConf.to_container(result.config, resolve=False)
    places = [config_path, result.header.get("package") or ""]
    if isinstance(content, dict):
        places += [str(key) for key in content]
        places += _words(content.get("defaults"))
    if any("hydra" in re.split(r"[\s/.@:]+", place) for place in places):
        yield "changes the settings of Hydra, which can run code"
    for word in _words(content):
        if word == "_target_":
            yield "has the key _target_, which names code to run"
        elif "${" in VALUE.sub("", word):
            yield f"has {word!r:.100}, which looks up more than a value of the config"


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
