"""The config that a run left, read as values and nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from diffusion_fw.registry import ConfigError

LARGEST_CONFIG = 1 << 20
"""Bytes: the longest config of the built-in components has some thousand."""


class _ValuesOnly(yaml.SafeLoader):
    """Mappings, lists, numbers and strings, each written out: neither tags that ask for objects nor aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("it has an alias, which can unfold to any size")
        return super().compose_node(parent, index)


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a run's config.yaml: a mapping of plain values.

    No tag makes an object, nothing is instantiated, and ``${...}`` is refused instead of being looked up. Raises
    ConfigError that names the file. The values are still to be checked against the signatures, by ``config.checked``.
    """
    try:
        size = Path(path).stat().st_size
        if size > LARGEST_CONFIG:
            raise ConfigError(f"{path} has {size:,} bytes, more than the {LARGEST_CONFIG:,} that a config may have")
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_ValuesOnly)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} cannot be read as a config: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} cannot be read as a config: it is not a mapping")
    _refuse_lookups(content, "", path)
    return content


def _refuse_lookups(value: Any, key: str, path: str | os.PathLike[str]) -> None:
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str):
                raise ConfigError(
                    f"{path} cannot be read as a config: the key {name!r} of {key or 'the top'} is no text"
                )
            _refuse_lookups(item, f"{key}.{name}" if key else name, path)
    elif isinstance(value, list):
        for item in value:
            _refuse_lookups(item, key, path)
    elif isinstance(value, str) and "${" in value:
        raise ConfigError(f"{path}: {key} asks for a lookup ({value[:100]!r}), but a run's config holds values only")
    elif not isinstance(value, (str, int, float, bool, type(None))):
        raise ConfigError(f"{path}: {key} is a {type(value).__name__}, but a run's config holds numbers and text only")
