"""Save models and load them again: as a checkpoint, as a folder, and in the hub of Hugging Face."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import torch

from diffusion_fw.checkpoints.describe import described
from diffusion_fw.checkpoints.folder import HUB, is_model_folder, to_hub, write_model
from diffusion_fw.checkpoints.load import load_chosen
from diffusion_fw.data.dataset import Data
from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.files import atomic_write
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.archive import RECORD_KEY

FILES = (".ckpt", ".pt", ".pth")
"""The endings of a checkpoint in one file."""

Model = str | os.PathLike[str] | NetworkDenoiser
"""A checkpoint, or a denoiser."""


def save(
    denoiser: NetworkDenoiser,
    path: str | os.PathLike[str],
    *,
    data: Data | str | None = None,
    shape: tuple[int, ...] | None = None,
    class_names: tuple[str, ...] = (),
    bounds: tuple[float, float] | None = None,
    pixels: bool | None = None,
    label_dropout: float = 0.0,
    **sections: Any,
) -> Path:
    """Write a model, such as one that was trained in a loop of one's own, for ``load``, sample.py and evaluate.py.

    A path that ends in .ckpt, .pt or .pth is a checkpoint, any other a folder of model.safetensors, config.json and a
    model card. Either holds these weights alone: a quarter of the checkpoint of a run, which has the optimizer's state
    and an average besides.

    The network, the schedule and the parameterization are described as ``dfw.build`` has made them; a denoiser from
    ``load`` by its checkpoint, so that nothing else need be given. Otherwise say what the examples are: ``data``, the
    data set or its name (a registered one is also that of evaluate.py), or ``shape``, ``class_names`` (of a model of
    classes), ``bounds``, the smallest and the largest value that the model sees, and ``pixels``, whether they are
    images of 8-bit pixels; by default images (1 or 3, H, W) within (-1, 1) are. ``label_dropout`` is how often labels
    were dropped in training, which classifier-free guidance needs. Further ``sections`` are components, their names, or
    sections of a config: ``sampler=`` and ``grid=`` are those that sample.py then uses, ``variance=`` is what a network
    of two outputs predicts, ``network={"name": "mine", "width": 64}`` describes a network that ``dfw.build`` has not
    made.

    Raises ConfigError for a model that could not be built again from this description.
    """
    target = Path(path)
    facts = {"shape": shape, "class_names": class_names, "bounds": bounds, "pixels": pixels}
    record = described(denoiser, data, facts, {"label_dropout": label_dropout, **sections})
    weights = denoiser.state_dict()
    if target.suffix not in FILES:
        _check_folder(target)
        write_model(target, weights, record)
        return target
    state = {f"denoiser.{key}": value.detach().cpu().contiguous().clone() for key, value in weights.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as file:
        torch.save({"state_dict": state, "global_step": 0, RECORD_KEY: {**record, "averages": {}}}, file)
    return target


def save_pretrained(
    model: Model,
    folder: str | os.PathLike[str],
    *,
    raw_weights: bool = False,
    ema_rate: float | None = None,
    ema_std: float | None = None,
    **options: Any,
) -> Path:
    """Write a checkpoint's model, or a denoiser, into a folder: model.safetensors, config.json and a model card.

    The weights of a checkpoint are those that ``load`` would choose; the ``options`` of a denoiser are those of
    ``save``. The folder can be loaded, and uploaded as a repository of the hub. Raises ConfigError for a folder that
    holds other files.
    """
    path = Path(folder)
    _check_folder(path)
    denoiser = _denoiser(model, raw_weights=raw_weights, rate=ema_rate, std=ema_std)
    write_model(path, denoiser.state_dict(), _description(denoiser, options))
    return path


def push_to_hub(
    model: Model,
    repository: str,
    *,
    private: bool = False,
    token: str | None = None,
    raw_weights: bool = False,
    ema_rate: float | None = None,
    ema_std: float | None = None,
    **options: Any,
) -> str:
    """Upload what ``save_pretrained`` writes to the repository OWNER/NAME of the hub, which is made if need be.

    Returns its address. ``token`` is by default that of ``hf auth login``. Raises ConfigError without the package
    huggingface_hub, and where the hub refuses.
    """
    _check_name(repository)
    denoiser = _denoiser(model, raw_weights=raw_weights, rate=ema_rate, std=ema_std)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / repository.partition("/")[2]
        write_model(folder, denoiser.state_dict(), _description(denoiser, options), name=f"{HUB}{repository}")
        return to_hub(folder, repository, private=private, token=token)


def from_pretrained(name: str | os.PathLike[str], *, revision: str | None = None) -> NetworkDenoiser:
    """The denoiser of a folder that ``save_pretrained`` wrote, or of a repository of the Hugging Face hub.

    A name that is no folder is the repository's, such as OWNER/NAME, which needs the package huggingface_hub;
    ``revision`` is a branch, a tag or a commit of it. No code of a repository is downloaded or run.
    """
    text = os.fspath(name)
    if Path(text).exists():
        if revision is not None:
            raise ConfigError(f"revision={revision}: {text} is a folder, which has none")
        return load_chosen(text)[0]
    text = text.removeprefix(HUB)
    _check_name(text)
    return load_chosen(f"{HUB}{text}{'' if revision is None else f'@{revision}'}")[0]


def _check_name(repository: str) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ConfigError(f"{repository}: no such folder, and not the name OWNER/NAME of a repository of the hub")


def _check_folder(path: Path) -> None:
    if path.exists() and not (path.is_dir() and (is_model_folder(path) or not any(path.iterdir()))):
        raise ConfigError(f"{path} exists and holds something else; give another folder")


def _denoiser(model: Model, *, raw_weights: bool, rate: float | None, std: float | None) -> NetworkDenoiser:
    if not isinstance(model, NetworkDenoiser):
        return load_chosen(model, raw_weights=raw_weights, rate=rate, std=std)[0]
    if raw_weights or rate is not None or std is not None:
        raise ConfigError(
            "raw_weights, ema_rate and ema_std choose among a checkpoint's weights; a denoiser has its own"
        )
    return model


def _description(denoiser: NetworkDenoiser, options: dict[str, Any]) -> dict[str, Any]:
    facts = {key: options.pop(key, None) for key in ("shape", "class_names", "bounds", "pixels")}
    return described(denoiser, options.pop("data", None), facts, options)
