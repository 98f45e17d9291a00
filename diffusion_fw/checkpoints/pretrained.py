"""Save and load models in the form that users of the Hugging Face hub know."""

from __future__ import annotations

import os
from pathlib import Path

from diffusion_fw.checkpoints.folder import is_model_folder, write_model
from diffusion_fw.checkpoints.load import load_chosen
from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.registry import ConfigError


def save_pretrained(
    checkpoint: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    raw_weights: bool = False,
    ema_rate: float | None = None,
    ema_std: float | None = None,
) -> Path:
    """Write a checkpoint's model into a folder: model.safetensors, config.json and a model card.

    The weights are those that ``load`` would choose. The folder can be loaded, and uploaded as a repository of the hub.
    Raises ConfigError for a folder that holds other files.
    """
    path = Path(folder)
    if path.exists() and not (path.is_dir() and (is_model_folder(path) or not any(path.iterdir()))):
        raise ConfigError(f"{path} exists and holds something else; give another folder")
    denoiser, record, _ = load_chosen(checkpoint, raw_weights=raw_weights, rate=ema_rate, std=ema_std)
    write_model(path, denoiser.state_dict(), record)
    return path


def from_pretrained(name: str | os.PathLike[str]) -> NetworkDenoiser:
    """The denoiser of a folder that ``save_pretrained`` wrote, or of a repository of the Hugging Face hub.

    A name that is no folder is the repository's, such as OWNER/NAME, which needs the package huggingface_hub.
    """
    text = os.fspath(name)
    return load_chosen(text if Path(text).exists() or text.startswith("hub:") else f"hub:{text}")[0]
