"""Plugins: the folders and entry points that the user named are searched, and nothing else."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
import sys
from pathlib import Path

from diffusion_fw.registry.messages import ConfigError

PLUGIN_VARIABLE = "DIFFUSION_FW_PLUGINS"
PLUGIN_ENTRY_POINTS = "diffusion_fw.plugins"
PLUGIN_PACKAGE = "diffusion_fw.plugins"


def plugin_folders() -> list[str]:
    """The folders of plugins, from the environment, which child processes inherit."""
    return [folder for folder in os.environ.get(PLUGIN_VARIABLE, "").split(os.pathsep) if folder]


def plugin_files() -> dict[str, Path]:
    """Every plugin file by its module name, in sorted order; ConfigError for two files of one name."""
    files: dict[str, Path] = {}
    for folder in plugin_folders():
        if not Path(folder).is_dir():
            raise ConfigError(f"plugin folder {folder} does not exist; change {PLUGIN_VARIABLE} or the folder given")
        for path in sorted(Path(folder).glob("*.py")):
            if path.stem.startswith("_"):
                continue
            if path.stem in files:
                raise ConfigError(f"two plugins are called '{path.stem}': {files[path.stem]} and {path}; rename one")
            files[path.stem] = path
    return dict(sorted(files.items()))


def _import_plugin(module: str, origin: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:
        raise ConfigError(f"plugin {origin} could not be imported: {type(error).__name__}: {error}") from error


def add_plugin_folders(*folders: str | os.PathLike[str]) -> None:
    """Add folders to ``DIFFUSION_FW_PLUGINS``, with the path from the root; nothing is imported."""
    known = [os.path.abspath(folder) for folder in plugin_folders()]
    added = [os.path.abspath(folder) for folder in folders]
    os.environ[PLUGIN_VARIABLE] = os.pathsep.join(known + [path for path in dict.fromkeys(added) if path not in known])


def load_plugins(*folders: str | os.PathLike[str]) -> list[str]:
    """Import every plugin: ``*.py`` of the folders given, of those in ``DIFFUSION_FW_PLUGINS``, and entry points.

    Nothing else is searched. Relative folders in the variable are relative to the working directory of the first call.
    The folders given are added to the variable, and plugin ``x.py`` is the module ``diffusion_fw.plugins.x``, so that
    every child process (DDP rank, data worker, sweep job) imports the same module under the same name. Returns the
    names of the modules. Raises ConfigError with the file of a failing import.
    """
    add_plugin_folders(*folders)
    package = importlib.import_module(PLUGIN_PACKAGE)
    package.__path__ = plugin_folders()
    modules = []
    for stem, path in plugin_files().items():
        modules.append(f"{PLUGIN_PACKAGE}.{stem}")
        _import_plugin(modules[-1], str(path))
    for point in sorted(importlib.metadata.entry_points(group=PLUGIN_ENTRY_POINTS), key=lambda item: item.name):
        modules.append(point.module)
        _import_plugin(point.module, f"{point.name} (entry point {point.value})")
    return modules


def plugin_hashes() -> dict[str, str]:
    """SHA-256 of every loaded plugin file, by module name; checkpoints record it."""
    return {
        stem: hashlib.sha256(path.read_bytes()).hexdigest()
        for stem, path in plugin_files().items()
        if f"{PLUGIN_PACKAGE}.{stem}" in sys.modules
    }
