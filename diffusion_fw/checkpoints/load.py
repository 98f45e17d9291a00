"""A trained model from its checkpoint alone."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.checkpoints.size_limit import limit_model_size
from diffusion_fw.checkpoints.weights import Choice, choose
from diffusion_fw.composition.facts import Facts
from diffusion_fw.composition.parts import build_denoiser, build_network
from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.registry import ConfigError, discovery
from diffusion_fw.training.module import RECORD_KEY

RECORD_PARTS = ("config", "facts", "plugins")
MODEL_GROUPS = ("schedule", "parameterization", "network")
"""What a model is built from; the plugins of a sampler or a logger that its training used are not needed."""


def checkpoint_of(run: str | os.PathLike[str]) -> Path:
    """The newest checkpoint that a run folder would go on from, or the file itself."""
    path = Path(run)
    if not path.is_dir():
        return path
    # Lightning writes hpc_ckpt_* when SLURM is about to stop a job.
    found = [path / "checkpoints" / "last.ckpt", *path.glob("hpc_ckpt_*.ckpt")]
    found = [item for item in found if item.is_file()]
    if not found:
        raise ConfigError(
            f"resume={run}: no checkpoints/last.ckpt in this folder; nothing was saved there, or it is not the folder "
            "of a run"
        )
    return max(found, key=lambda item: item.stat().st_mtime)


def read(checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a checkpoint, by weights-only loading: a stranger's file runs no code.

    Raises ConfigError where there is no file, it is damaged, or it is not a checkpoint of this framework.
    """
    path = Path(checkpoint)
    if not path.is_file():
        near = sorted(path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        hint = f"; there are: {', '.join(map(str, near))}" if near else ""
        raise ConfigError(f"checkpoint={path}: no such file{hint}")
    _check_archive(path)
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
    _check_weights(content["state_dict"], path)
    return content


def _check_archive(path: Path) -> None:
    """torch stores what it saves, each record once: compressed or overlapping ones would unpack to any size."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # a damaged directory raises whatever its bytes happen to spell
        raise ConfigError(f"checkpoint={path} is damaged: {error}") from None
    size = path.stat().st_size
    unpacked = sum(member.file_size for member in members)
    if unpacked > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ConfigError(
            f"checkpoint={path} was not loaded: its {size:,} bytes would unpack to {unpacked:,}, but torch saves "
            "without compression"
        )


def _check_weights(weights: dict[Any, Any], path: Path) -> None:
    """A tensor may claim no more values than its storage holds, which strides of 0 would let it do."""
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ConfigError(f"checkpoint={path} was not loaded: its weights hold a {type(value).__name__}")
        plain = value.layout is torch.strided and value.device.type == "cpu"
        if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ConfigError(f"checkpoint={path} was not loaded: {name} claims more values than the file holds")


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
    """Short and printable: it may stand in a message on a terminal."""
    return isinstance(value, str) and len(value) <= registry.LONGEST_NAME and value.isprintable()


def _check_plugins(record: dict[str, Any], path: str | os.PathLike[str]) -> None:
    for group in MODEL_GROUPS:
        name = record["config"][group]["name"]
        try:
            registry.entry(group, name)
        except ConfigError:
            plugins = ", ".join(record["plugins"]) or "none"
            raise ConfigError(
                f"checkpoint={path} uses {group}={name}, which is not registered here; "
                f"it was made with the plugins: {plugins}. Put the plugin into plugins/ or {discovery.PLUGIN_VARIABLE}"
            ) from None


def _build(record: dict[str, Any], weights: dict[str, Tensor], source: str) -> NetworkDenoiser:
    """The untrained model, first without memory, so that one larger than its file is refused before it takes any."""
    config = record["config"]
    values = sum(value.numel() for value in weights.values())
    try:
        facts = Facts.from_record(record["facts"])
        with limit_model_size(len(weights), values):
            with contextlib.suppress(NotImplementedError, RuntimeError), torch.device("meta"):
                build_network(config, facts)
            return build_denoiser(config, facts)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except (MemoryError, OverflowError, RuntimeError) as error:
        raise ConfigError(f"{source}: its model cannot be built: {str(error).splitlines()[0]}") from None


def load_chosen(
    checkpoint: str | os.PathLike[str],
    *,
    raw_weights: bool = False,
    rate: float | None = None,
    std: float | None = None,
) -> tuple[NetworkDenoiser, dict[str, Any], Choice]:
    """The denoiser of a checkpoint with the weights asked for, the checkpoint's record, and which weights they are."""
    content = read(checkpoint)
    record = content[RECORD_KEY]
    _check_plugins(record, checkpoint)
    choice = choose(content, Path(checkpoint), raw_weights=raw_weights, rate=rate, std=std)
    denoiser = _build(record, choice.weights, f"checkpoint={checkpoint}")
    try:
        denoiser.load_state_dict(choice.weights)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ConfigError(
            f"checkpoint={checkpoint} holds the weights of another architecture than its config describes: "
            f"{' '.join(line.strip() for line in lines[1:4])}"
        ) from None
    return denoiser.requires_grad_(False).eval(), record, choice


def load_with_record(
    checkpoint: str | os.PathLike[str], *, raw_weights: bool = False
) -> tuple[NetworkDenoiser, dict[str, Any]]:
    """The denoiser of a checkpoint and what the checkpoint says of itself."""
    denoiser, record, _ = load_chosen(checkpoint, raw_weights=raw_weights)
    return denoiser, record


def load(
    checkpoint: str | os.PathLike[str],
    *,
    raw_weights: bool = False,
    ema_rate: float | None = None,
    ema_std: float | None = None,
) -> NetworkDenoiser:
    """The denoiser of a checkpoint, with the first averaged weights unless the raw ones or a length are asked for.

    ``ema_rate`` and ``ema_std`` name an average that the checkpoint holds; after training with ema=post_hoc any
    ``ema_std`` is made of the run's snapshots. Only registered components are built and weights are loaded
    weights-only, so a file from a stranger runs no code. Raises ConfigError for a missing, damaged or foreign file,
    for a component that is not registered and for an average that is not there.
    """
    return load_chosen(checkpoint, raw_weights=raw_weights, rate=ema_rate, std=ema_std)[0]
