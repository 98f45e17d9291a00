"""Published weights as they are stored: a file of torch or safetensors, or a folder of diffusers; read as values."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.checkpoints.folder import HUB, from_hub
from diffusion_fw.files import open_regular
from diffusion_fw.interop.formats import formats
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.archive import check_records

WEIGHTS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""Names of the files of weights in a folder, without their endings."""
SAFETENSORS = ".safetensors"
STORED = "config"
"""The key under which files hold the settings of their model."""
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
    """The config.json beside the weights, with that of a scheduler under "scheduler".

    Of a single file, the ``config`` that a training script stored with the weights, or the metadata of safetensors.
    """


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
        content = _weights(path)
        return Source(name, content, _metadata(path) if path.suffix == SAFETENSORS else _stored(content))
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
    supported = [kind for item in formats().values() for kind in item.classes]
    if (kind := settings.get("_class_name")) is not None and kind not in supported:
        raise ConfigError(
            f"{name}: its network is a {kind!s:.100} of diffusers, which is not supported; {', '.join(supported)} are"
        )
    return Source(name, _weights_of_folder(path), settings)


def _weights_of_folder(path: Path) -> dict[str, Tensor]:
    found = [path / f"{stem}{ending}" for stem in WEIGHTS for ending in (".safetensors", ".bin", ".pt")]
    found = [item for item in found if item.is_file()]
    if found:
        content: dict[str, Tensor] = _weights(found[0])
        return content
    for index in sorted(path.glob("*.safetensors.index.json")):
        places = _json(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
            raise ConfigError(f"{index}: its weight_map must give the name of a file for each weight")
        files = sorted(set(places.values()))
        if outside := [file for file in files if Path(file).name != file or not file.endswith(".safetensors")]:
            raise ConfigError(
                f"{index}: its weight_map names {outside[0]!r}, which is no safetensors file of this folder"
            )
        return {key: value for file in files for key, value in _weights(path / file).items()}
    names = ", ".join(f"{stem}.safetensors" for stem in WEIGHTS)
    raise ConfigError(f"{path}: no weights; a folder of diffusers has one of {names}")


def _weights(path: Path) -> Any:
    if path.suffix == SAFETENSORS:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        open_regular(path).close()
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ConfigError(f"{path} is damaged or no file of safetensors: {error}") from None
    _check_archive(path)
    try:
        # DiT's training script keeps its command line beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        said = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), "it is damaged")
        raise ConfigError(
            f"{path} was not loaded: published weights may hold tensors and plain values only ({_first(said)}). "
            "If you trust the file, save its state dict alone: torch.save(model.state_dict(), ...)"
        ) from None
    except OSError:
        raise
    except Exception as error:  # a damaged file can raise any error
        said = "it is empty" if path.stat().st_size == 0 else f"{type(error).__name__}: {_first(str(error))}"
        raise ConfigError(f"{path} is damaged or not written by torch.save: {said}") from None


def _metadata(path: Path) -> dict[str, Any]:
    """The settings in the metadata of a file of safetensors that was read; empty where there are none."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(STORED, "{}")
    return _parsed(text, f"{path}: the config in its metadata")


def _stored(content: Any) -> Mapping[str, Any]:
    """The settings beside the weights of a training file; empty where there are none."""
    found = content.get(STORED) if isinstance(content, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _check_archive(path: Path) -> None:
    """Raise ConfigError for an archive that unpacks to more than it holds."""
    with open_regular(path) as file:
        if not zipfile.is_zipfile(file):
            return
        try:
            with zipfile.ZipFile(file) as archive:
                check_records(archive, os.fstat(file.fileno()).st_size)
        except (pickle.UnpicklingError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{path} was not loaded: {error}") from None


def _first(text: str) -> str:
    """The first sentence of a library's message."""
    return " ".join(text.split()).partition(". ")[0][:200]


def _json(path: Path) -> dict[str, Any]:
    with open_regular(path) as file:
        return _parsed(file.read(LARGEST_JSON), str(path))


def _parsed(text: str | bytes, what: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{what} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{what} holds no settings")
    return content
