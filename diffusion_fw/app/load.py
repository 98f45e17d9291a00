"""A trained model from its checkpoint alone."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from diffusion_fw import registry
from diffusion_fw.composition import Facts, build_denoiser
from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.registry import ConfigError

CHECKPOINT_KEY = "diffusion_fw"
RECORD_PARTS = ("config", "facts", "plugins")
MODEL_GROUPS = ("schedule", "parameterization", "network")
"""What a model is built from; the plugins of a sampler or a logger that its training used are not needed."""


def read(checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a checkpoint, by weights-only loading: a stranger's file runs no code.

    Raises ConfigError where there is no file, it is damaged, or it is not a checkpoint of this framework.
    """
    path = Path(checkpoint)
    if not path.is_file():
        near = sorted(path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        hint = f"; there are: {', '.join(map(str, near))}" if near else ""
        raise ConfigError(f"checkpoint={path}: no such file{hint}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"checkpoint={path} is damaged or holds more than weights and settings, and was not loaded: "
            f"{str(error).splitlines()[0]}"
        ) from None
    except Exception as error:  # what a damaged file makes of the unpickler can be any error
        raise ConfigError(f"checkpoint={path} is damaged: {str(error).partition('. ')[0]}") from None
    if not _is_ours(content):
        raise ConfigError(f"checkpoint={path} was not written by diffusion_fw")
    return content


def _is_ours(content: Any) -> bool:
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        return False
    record = content.get(CHECKPOINT_KEY)
    if not isinstance(record, dict) or not all(isinstance(record.get(part), dict) for part in RECORD_PARTS):
        return False
    return all("name" in record["config"].get(group, ()) for group in MODEL_GROUPS)


def _check_plugins(record: dict[str, Any], path: str | os.PathLike[str]) -> None:
    for group in MODEL_GROUPS:
        name = record["config"][group]["name"]
        if name not in registry.names(group):
            plugins = ", ".join(record["plugins"]) or "none"
            raise ConfigError(
                f"checkpoint={path} uses {group}={name}, which is not registered here; "
                f"it was made with the plugins: {plugins}. Put the plugin into plugins/ or {registry.PLUGIN_VARIABLE}"
            )


def load_with_record(
    checkpoint: str | os.PathLike[str], *, raw_weights: bool = False
) -> tuple[NetworkDenoiser, dict[str, Any]]:
    """The denoiser of a checkpoint and what the checkpoint says of itself."""
    content = read(checkpoint)
    record = content[CHECKPOINT_KEY]
    _check_plugins(record, checkpoint)
    denoiser = build_denoiser(record["config"], Facts.from_record(record["facts"]))
    prefix = "denoiser." if raw_weights else "averaged."
    weights = {
        key.removeprefix(prefix): value for key, value in content["state_dict"].items() if key.startswith(prefix)
    }
    try:
        denoiser.load_state_dict(weights)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ConfigError(
            f"checkpoint={checkpoint} holds the weights of another architecture than its config describes: "
            f"{' '.join(line.strip() for line in lines[1:4])}"
        ) from None
    return denoiser.requires_grad_(False).eval(), record


def load(checkpoint: str | os.PathLike[str], *, raw_weights: bool = False) -> NetworkDenoiser:
    """The denoiser of a checkpoint, with the averaged weights unless the raw ones are asked for.

    Only registered components are built and weights are loaded weights-only, so a file from a stranger runs no code.
    Raises ConfigError for a missing, damaged or foreign file and for a component that is not registered.
    """
    return load_with_record(checkpoint, raw_weights=raw_weights)[0]
