"""A model as a folder of model.safetensors, config.json and a model card, as users of the Hugging Face hub know it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion_fw.files import atomic_write, open_regular
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.archive import RECORD_KEY

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
LARGEST_CONFIG = 1 << 24
HUB = "hub:"
PREFIX = "denoiser."
CARD_TEXT = """---
library_name: diffusion_fw
tags:
- diffusion
- {task}
---

# A diffusion model of diffusion_fw

| | |
|---|---|
{rows}

```python
import torch

import diffusion_fw as dfw

denoiser = dfw.load("{name}")  # a folder, or hub:OWNER/NAME
sampler = dfw.build("sampler", "ddim", steps=50)
clipped = dfw.build("guidance", "clip", denoiser=denoiser)
x = sampler(clipped, dfw.prior(denoiser.schedule, {shape}){cond})
```
"""


def is_model_folder(path: Path) -> bool:
    """Whether it holds a model that ``write_model`` wrote."""
    return (path / WEIGHTS).is_file() and (path / CONFIG).is_file()


def read_model(path: Path) -> dict[str, Any]:
    """The content of a checkpoint with the weights of a folder; values only, so that a stranger's runs no code."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        with open_regular(path / CONFIG) as file:
            text = file.read(LARGEST_CONFIG + 1)
        if len(text) > LARGEST_CONFIG:
            raise ConfigError(f"checkpoint={path}: {CONFIG} has more than {LARGEST_CONFIG:,} bytes")
        config = json.loads(text)
        with open_regular(path / WEIGHTS) as file:
            weights = load(file.read())
    except OSError as error:
        raise ConfigError(f"checkpoint={path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError, SafetensorError) as error:
        raise ConfigError(f"checkpoint={path} is damaged: {str(error)[:300]}") from None
    if not isinstance(config, dict) or not isinstance(config.get(RECORD_KEY), dict):
        raise ConfigError(f"checkpoint={path} was not written by diffusion_fw")
    record = {**config[RECORD_KEY], "averages": {}}
    state = {f"{PREFIX}{key}": value for key, value in weights.items()}
    return {"state_dict": state, "global_step": 0, RECORD_KEY: record}


def write_model(
    folder: Path, weights: Mapping[str, Tensor], record: Mapping[str, Any], name: str | None = None
) -> None:
    """Write the weights of a denoiser, by name, and what its checkpoint says about itself.

    The card loads it by the ``name``, or by that of the folder.
    """
    from safetensors.torch import save

    config = {
        key: value
        for key, value in record.items()
        if key in ("version", "config", "facts", "plugins", "weights", "codec")
    }
    values = {key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / WEIGHTS) as file:
        file.write(save(values, metadata={"format": "pt"}))
    with atomic_write(folder / CONFIG) as file:
        file.write(json.dumps({RECORD_KEY: config}, indent=1).encode())
    with atomic_write(folder / CARD) as file:
        file.write(card(name or folder.name, record).encode())


def card(name: str, record: Mapping[str, Any]) -> str:
    """The model card: what the model is made of, and how it is loaded."""
    config, facts = record["config"], record["facts"]
    rows = {
        key: _shown(config[key]) for key in ("network", "schedule", "parameterization", "variance") if key in config
    }
    rows["data"] = _shown(config["data"]) if "data" in config else "not recorded"
    rows["examples"] = f"shape {tuple(facts['shape'])}, {facts['num_classes']} classes"
    lines = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    conditional = bool(facts["num_classes"])
    return CARD_TEXT.format(
        task="class-conditional-image-generation" if conditional else "unconditional-image-generation",
        rows=lines,
        name=name,
        shape=(4, *facts["shape"]),
        cond=f", cond=torch.arange(4) % {facts['num_classes']}" if conditional else "",
    )


def _shown(section: Mapping[str, Any]) -> str:
    text = ", ".join([str(section["name"]), *(f"{key}={value}" for key, value in section.items() if key != "name")])
    # Paths say where the data are on one machine.
    return re.sub(r"[|\n]", " ", re.sub(r"(path|root|shards)=[^,]*", r"\1=...", text))


def from_hub(repository: str) -> Path:
    """The folder of a repository of the Hugging Face hub, downloaded; no files that could hold code.

    Raises ConfigError where the package huggingface_hub is not installed, and where the repository cannot be read.
    """
    _require_hub(repository)
    from huggingface_hub import snapshot_download

    name, _, revision = repository.partition("@")
    try:
        folder = snapshot_download(name, revision=revision or None, allow_patterns=["*.json", "*.safetensors"])
    except Exception as error:  # many kinds: offline, no such repository, no access
        raise ConfigError(f"{HUB}{repository} cannot be read: {type(error).__name__}: {str(error)[:300]}") from None
    path = Path(os.fspath(folder))
    if not is_model_folder(path):
        raise ConfigError(
            f"{HUB}{repository} holds no {WEIGHTS} and {CONFIG} of diffusion_fw; import weights of other code by "
            f"python -m diffusion_fw.interop import {HUB}{name} --out model.ckpt"
        )
    return path


def to_hub(folder: Path, repository: str, *, private: bool, token: str | None) -> str:
    """Upload a folder as a repository of the Hugging Face hub, which is made if need be; returns its address.

    Raises ConfigError where the package huggingface_hub is not installed, and where the hub refuses.
    """
    _require_hub(repository)
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=token)
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:  # many kinds: offline, no login, no access
        raise ConfigError(f"{HUB}{repository} was not written: {type(error).__name__}: {str(error)[:300]}") from None
    return str(address)


def _require_hub(repository: str) -> None:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ConfigError(
            f"{HUB}{repository} needs the package huggingface_hub: pip install huggingface_hub; or save, load, upload "
            "and download its folder"
        )
