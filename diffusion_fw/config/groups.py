"""The groups that a command line chooses from, and the folder of their presets; Hydra is not imported."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import yaml

import diffusion_fw
from diffusion_fw import registry
from diffusion_fw.registry import OWN, ConfigError

STACKED = tuple(name for name, group in registry.GROUPS.items() if group.several)
"""Groups of which several choices hold at once, in order: each stands at group.name in the config."""

OWN_GROUPS = tuple(name for name, group in registry.GROUPS.items() if group.own)
"""Groups of which a program that uses a checkpoint takes what the model was trained with, by group=own."""


def conf_dir() -> Path:
    """The folder of the composed configs: in the wheel beside this file, in a checkout beside the package."""
    package = Path(diffusion_fw.__file__).parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


CONF_VARIABLE = "DIFFUSION_FW_CONF"


def named_conf_dirs() -> list[Path]:
    """The folders of configs that the environment names; ConfigError for one that does not exist."""
    folders = [Path(folder) for folder in os.environ.get(CONF_VARIABLE, "").split(os.pathsep) if folder]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{CONF_VARIABLE}: there is no such folder of configs: {folder}")
    return [folder.absolute() for folder in folders]


def further_conf_dirs() -> list[Path]:
    """Where configs are found besides ``conf_dir``: folders that are named, then ``conf`` of the working directory."""
    here = Path("conf").absolute()
    found = [*named_conf_dirs(), *([here] if here.is_dir() else [])]
    return [folder for folder in dict.fromkeys(found) if folder.resolve() != conf_dir().resolve()]


def defaults(program: str) -> dict[str, Any]:
    """The default choice of each group of a program."""
    return _chosen(conf_dir() / f"{program}.yaml")


@functools.cache
def _chosen(path: Path) -> dict[str, Any]:
    stated = yaml.safe_load(path.read_text())["defaults"]
    chosen = {group: choice for item in stated if isinstance(item, dict) for group, choice in item.items()}
    return {group: choice for group, choice in chosen.items() if not group.startswith("override ")}


def groups(program: str = "train") -> list[str]:
    """Every group that a program can choose from: those that its file names."""
    return sorted(defaults(program))


def stacked(program: str) -> list[str]:
    """The groups of which a program takes several choices: those whose default is a list."""
    return [group for group, choice in defaults(program).items() if isinstance(choice, list)]


def has_own(program: str, group: str) -> bool:
    """Whether group=own stands for what the model was trained with: in the programs that use a checkpoint."""
    return defaults(program).get(group) in (OWN, [OWN])


def unregistered(group: str) -> list[str]:
    """The choices of a group that are no components: presets of the folders of configs, and ``none`` or ``auto``."""
    folders = [conf_dir(), *further_conf_dirs()]
    presets = {path.stem for folder in folders for path in (folder / group).glob("*.yaml")}
    return [*presets, *(["none"] if group in STACKED else ["auto"] if group == "features" else [])]
