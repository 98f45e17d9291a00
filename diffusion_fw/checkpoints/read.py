"""Find a run's checkpoint and read it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion_fw.checkpoints.folder import HUB, WEIGHTS, from_hub, is_model_folder, read_model
from diffusion_fw.provenance import file_hash
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.archive import RECORD_KEY, read_archive

RECORD_PARTS = ("config", "facts", "plugins")
MAX_NAME = 300
"""Characters of the longest name of a weight, a component or a key."""
MODEL_GROUPS = ("schedule", "parameterization", "network")
"""The groups that a model is built from. Loading it needs no plugin of another group, such as a sampler."""


def checkpoint_of(run: str | os.PathLike[str], key: str = "resume") -> Path:
    """The newest checkpoint of a run's folder, or ``run`` itself if it is a file.

    Raises ConfigError that names the ``key`` of the config if there is none.
    """
    path = Path(run)
    if os.fspath(run).startswith(HUB):
        return path
    if not path.exists():
        raise ConfigError(f"{key}={run}: no such file or folder; give the folder of a run or one of its checkpoints")
    if not path.is_dir() or is_model_folder(path):
        return path
    # Lightning writes hpc_ckpt_* when SLURM is about to stop a job.
    found = [path / "checkpoints" / "last.ckpt", *path.glob("hpc_ckpt_*.ckpt")]
    found = [item for item in found if item.is_file()]
    if not found:
        raise ConfigError(
            f"{key}={run}: no checkpoints/last.ckpt in this folder; the run saved none, or it is not a run's folder"
        )
    return max(found, key=lambda item: item.stat().st_mtime)


def read(checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a checkpoint; its checksums are verified, and a stranger's file runs no code.

    It may also be the folder of a run, whose newest is read, a folder of model.safetensors and config.json, or with
    ``hub:`` such a repository of the Hugging Face hub. Raises ConfigError if there is no such file, it is damaged, or
    it is not a checkpoint of this framework.
    """
    name = os.fspath(checkpoint)
    path = from_hub(name.removeprefix(HUB)) if name.startswith(HUB) else Path(name)
    folder = is_model_folder(path)
    if path.is_dir() and not folder:
        path = checkpoint_of(path, "checkpoint")
    if not path.exists():
        near = sorted(path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        hint = f"; there are: {', '.join(map(str, near))}" if near else ""
        raise ConfigError(f"checkpoint={path}: no such file{hint}")
    content = read_model(path) if folder else read_archive(path)
    if not _is_ours(content):
        raise ConfigError(f"checkpoint={path} was not written by diffusion_fw")
    for name, value in content["state_dict"].items():
        if not _is_name(name):
            raise ConfigError(f"checkpoint={path} was not loaded: the name of a weight is too long or not printable")
        if not isinstance(value, Tensor):
            raise ConfigError(f"checkpoint={path} was not loaded: its weights hold a {type(value).__name__}")
    result: dict[str, Any] = content
    return result


def checkpoint_hash(checkpoint: str | os.PathLike[str]) -> str:
    """SHA-256 of a checkpoint's file; of the weights, where it is a model's folder or of the hub."""
    name = os.fspath(checkpoint)
    path = from_hub(name.removeprefix(HUB)) if name.startswith(HUB) else Path(name)
    return file_hash(path / WEIGHTS if is_model_folder(path) else path)


def _is_ours(content: Any) -> bool:
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        return False
    record = content.get(RECORD_KEY)
    if not isinstance(record, dict) or not all(isinstance(record.get(part), dict) for part in RECORD_PARTS):
        return False
    sections = [record["config"].get(group) for group in MODEL_GROUPS]
    if not all(isinstance(section, dict) and _is_name(section.get("name")) for section in sections):
        return False
    return all(
        map(_is_name, (*record["config"], *record["plugins"], *(key for section in sections for key in section)))
    )


def _is_name(value: Any) -> bool:
    """Whether a value is short and printable, fit for a message on a terminal."""
    return isinstance(value, str) and len(value) <= MAX_NAME and value.isprintable()
