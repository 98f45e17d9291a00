"""Published weights as they are stored: a file of torch or safetensors, or a folder of diffusers; read as values."""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.checkpoints.folder import HUB, from_hub
from diffusion_fw.files import open_regular
from diffusion_fw.registry import ConfigError

WEIGHTS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""Names of the files of weights in a folder, without their endings."""
MODELS = ("unet", "transformer")
"""The parts of a diffusers pipeline that may be its network."""
LARGEST_JSON = 1 << 26


@dataclass(frozen=True)
class Source:
    """What was read."""

    name: str
    """As the user gave it."""
    content: Any = field(repr=False)
    """The tensors of the file, in whatever containers it has."""
    settings: Mapping[str, Any]
    """The config.json beside the weights, with that of a scheduler under "scheduler"; empty for a single file."""


def read_source(name: str) -> Source:
    """Read a file, a folder of diffusers, or with ``hub:`` a repository of the Hugging Face hub.

    Raises ConfigError for what is neither, is damaged, or holds anything but tensors and plain values.
    """
    path = from_hub(name.removeprefix(HUB)) if name.startswith(HUB) else Path(name)
    try:
        if path.is_dir():
            return _folder(name, path)
        if not path.exists():
            raise ConfigError(f"{name}: no such file or folder; hub:{name} reads it from the Hugging Face hub")
        return Source(name, _weights(path), {})
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.filename}: {error.strerror or error}") from None


def _folder(name: str, path: Path) -> Source:
    settings: dict[str, Any] = {}
    if (path / "model_index.json").is_file():
        index = _json(path / "model_index.json")
        parts = [part for part in MODELS if part in index and (path / part).is_dir()]
        if len(parts) != 1:
            raise ConfigError(f"{name}: a pipeline of diffusers with one of {' and '.join(MODELS)} is needed")
        if (path / "scheduler" / "scheduler_config.json").is_file():
            settings["scheduler"] = _json(path / "scheduler" / "scheduler_config.json")
        settings["pipeline"] = index.get("_class_name")
        settings["id2label"] = index.get("id2label")
        path = path / parts[0]
    if not (path / "config.json").is_file():
        raise ConfigError(f"{name}: a folder of diffusers has a config.json or a model_index.json, but {path} has not")
    settings = {**_json(path / "config.json"), **settings}
    return Source(name, _weights_of_folder(path), settings)


def _weights_of_folder(path: Path) -> dict[str, Tensor]:
    found = [path / f"{stem}{ending}" for stem in WEIGHTS for ending in (".safetensors", ".bin", ".pt")]
    found = [item for item in found if item.is_file()]
    if found:
        content: dict[str, Tensor] = _weights(found[0])
        return content
    for index in sorted(path.glob("*.safetensors.index.json")):
        files = sorted(set(_json(index).get("weight_map", {}).values()))
        if not all(isinstance(file, str) and Path(file).name == file for file in files):
            raise ConfigError(f"{index}: its weight_map names files outside the folder")
        return {key: value for file in files for key, value in _weights(path / file).items()}
    names = ", ".join(f"{stem}.safetensors" for stem in WEIGHTS)
    raise ConfigError(f"{path}: no weights; a folder of diffusers has one of {names}")


def _weights(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        open_regular(path).close()
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ConfigError(f"{path} is damaged or no file of safetensors: {error}") from None
    open_regular(path).close()
    try:
        # DiT's training script keeps its command line beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        said = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), "it is damaged")
        raise ConfigError(
            f"{path} was not loaded: published weights may hold tensors and plain values only ({said:.200}). "
            "If you trust the file, save its state dict alone: torch.save(model.state_dict(), ...)"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path} is damaged or not written by torch.save: {str(error)[:200]!r}") from None


def _json(path: Path) -> dict[str, Any]:
    with open_regular(path) as file:
        text = file.read(LARGEST_JSON)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no settings")
    return content
