"""A trained model from its checkpoint alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.checkpoints.read import MODEL_GROUPS, read
from diffusion_fw.checkpoints.size_limit import limit_model_size
from diffusion_fw.checkpoints.weights import Choice, check_weights, choose
from diffusion_fw.codecs.codec import FILE as CODEC_FILE
from diffusion_fw.composition.facts import Facts
from diffusion_fw.composition.parts import build_model, check_size
from diffusion_fw.denoiser import NetworkAutoencoder, NetworkClassifier, NetworkDenoiser
from diffusion_fw.registry import ConfigError, discovery
from diffusion_fw.training.archive import RECORD_KEY

Model = NetworkDenoiser | NetworkClassifier | NetworkAutoencoder


def load(
    checkpoint: str | os.PathLike[str],
    *,
    raw_weights: bool = False,
    ema_rate: float | None = None,
    ema_std: float | None = None,
) -> NetworkDenoiser:
    """The denoiser of a checkpoint, by default with its first averaged weights.

    ``raw_weights`` takes the trained weights; ``ema_rate`` or ``ema_std`` an average of that length in the checkpoint.
    After training with ema=post_hoc an average of any ``ema_std`` is made from the run's snapshots. Only registered
    components are built and the file is read as values, so a stranger's file runs no code. Raises ConfigError for a
    missing, damaged or foreign file, a component that is not registered, an average that is not available, and weights
    that are not finite.
    """
    return load_chosen(checkpoint, raw_weights=raw_weights, rate=ema_rate, std=ema_std)[0]


def load_classifier(
    checkpoint: str | os.PathLike[str],
    *,
    raw_weights: bool = False,
    ema_rate: float | None = None,
    ema_std: float | None = None,
) -> NetworkClassifier:
    """The classifier of a checkpoint of objective=classifier; as ``load`` in everything else."""
    return load_chosen_classifier(checkpoint, raw_weights=raw_weights, rate=ema_rate, std=ema_std)[0]


def load_chosen(
    checkpoint: str | os.PathLike[str],
    *,
    raw_weights: bool = False,
    rate: float | None = None,
    std: float | None = None,
) -> tuple[NetworkDenoiser, dict[str, Any], Choice]:
    """(the denoiser of a checkpoint with the chosen weights, the checkpoint's record, which weights they are)."""
    model, record, choice = load_model(checkpoint, raw_weights=raw_weights, rate=rate, std=std)
    if isinstance(model, NetworkAutoencoder):
        raise ConfigError(
            f"checkpoint={checkpoint} holds an autoencoder, which draws no samples; train a model of its latents with "
            f"codec=kl_autoencoder codec.path={Path(checkpoint).parent / CODEC_FILE}"
        )
    if not isinstance(model, NetworkDenoiser):
        raise ConfigError(
            f"checkpoint={checkpoint} holds a classifier, which draws no samples; give the checkpoint of a model, and "
            "this one as guidance.classifier.checkpoint with guidance=[clip,classifier]"
        )
    return model, record, choice


def load_chosen_classifier(
    checkpoint: str | os.PathLike[str],
    *,
    raw_weights: bool = False,
    rate: float | None = None,
    std: float | None = None,
) -> tuple[NetworkClassifier, dict[str, Any], Choice]:
    """The same of a checkpoint that holds a classifier."""
    model, record, choice = load_model(checkpoint, raw_weights=raw_weights, rate=rate, std=std)
    if not isinstance(model, NetworkClassifier):
        raise ConfigError(
            f"checkpoint={checkpoint} holds no classifier, but network={record['config']['network']['name']}; "
            "give one that was trained with objective=classifier"
        )
    return model, record, choice


def load_model(
    checkpoint: str | os.PathLike[str], *, raw_weights: bool, rate: float | None = None, std: float | None = None
) -> tuple[Model, dict[str, Any], Choice]:
    """The same of a checkpoint that may hold either, or an autoencoder."""
    content = read(checkpoint)
    record = content[RECORD_KEY]
    _check_registered(record, checkpoint)
    choice = choose(content, Path(checkpoint), raw_weights=raw_weights, rate=rate, std=std)
    model = _build(record, choice.weights, f"checkpoint={checkpoint}")
    check_weights(choice.weights, model.state_dict(), f"checkpoint={checkpoint}")
    try:
        model.load_state_dict(choice.weights)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ConfigError(
            f"checkpoint={checkpoint} holds the weights of another architecture than its config describes: "
            f"{' '.join(line.strip() for line in lines[1:4])}"
        ) from None
    if isinstance(model, NetworkDenoiser):
        model.record = {**record, "weights": choice.name}
    return model.requires_grad_(False).eval(), record, choice


def _check_registered(record: dict[str, Any], path: str | os.PathLike[str]) -> None:
    for group in MODEL_GROUPS:
        name = record["config"][group]["name"]
        try:
            registry.entry(group, name)
        except ConfigError:
            plugins = ", ".join(record["plugins"]) or "none"
            raise ConfigError(
                f"checkpoint={path} uses {group}={name}, which is not registered here; "
                f"it was made with the plugins: {plugins}. Put it beside the script, "
                f"into plugins/, or name its folder: {discovery.PLUGIN_VARIABLE}=plugins"
            ) from None


def _build(record: dict[str, Any], weights: dict[str, Tensor], source: str) -> Model:
    """The untrained model; it is first built without memory, so that one too large for its file takes none."""
    config = record["config"]
    try:
        facts = Facts.from_record(record["facts"])
        check_size(config, facts, limit_model_size(weights.values()))
        with limit_model_size(weights.values()):
            return build_model(config, facts)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except (KeyError, MemoryError, OverflowError, RuntimeError) as error:
        raise ConfigError(f"{source}: its model cannot be built: {str(error).splitlines()[0]}") from None
