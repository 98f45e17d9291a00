"""The groups that a command line chooses from, and the folder of their presets; Hydra is not imported."""

from __future__ import annotations

from pathlib import Path

import diffusion_fw
from diffusion_fw import registry

STACKED = tuple(name for name, group in registry.GROUPS.items() if group.several)
"""Groups of which several choices hold at once, in order: each stands at group.name in the config."""


def conf_dir() -> Path:
    """The folder of the composed configs: in the wheel beside this file, in a checkout beside the package."""
    package = Path(diffusion_fw.__file__).parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def groups() -> list[str]:
    """Every group that can be chosen from: those of the registry and the folders of conf/."""
    folders = [path.name for path in conf_dir().iterdir() if path.is_dir() and path.name != "hydra"]
    return sorted({*registry.GROUPS, *folders} - {"settings"})


def unregistered(group: str) -> list[str]:
    """The choices of a group that are no components: the presets of conf/, and ``none`` or ``auto``."""
    presets = [path.stem for path in (conf_dir() / group).glob("*.yaml")]
    return [*presets, *(["none"] if group in STACKED else ["auto"] if group == "features" else [])]
