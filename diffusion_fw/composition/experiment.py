"""A training run: its parts, its trainer and what writes into its folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffusion_fw.composition.checks import check_gradients, check_monitors, check_processes
from diffusion_fw.composition.facts import Config, Facts
from diffusion_fw.composition.parts import assemble, compile_network, compose_parts, lay_out
from diffusion_fw.data.dataset import Data
from diffusion_fw.data.latents import Space
from diffusion_fw.metrics.metric import TrackedMetric
from diffusion_fw.networks.network import is_autoencoder
from diffusion_fw.registry import ConfigError, discovery
from diffusion_fw.samplers.sampler import Sampler
from diffusion_fw.training.loggers.fan_out import Labels, lasting

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """Everything that a training run consists of."""

    data: Data
    space: Space
    denoiser: Any
    """A NetworkDenoiser, or the NetworkClassifier or NetworkAutoencoder that is trained."""
    sampler: Sampler
    metric: TrackedMetric
    history: Any
    evaluation: Any
    module: Any
    trainer: Any


def build_experiment(config: Config, folder: Path) -> Experiment:
    """Build and check a training run that writes into ``folder``; ConfigError where its parts don't fit together."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from diffusion_fw.training.callbacks.history import History
    from diffusion_fw.training.callbacks.snapshots import Snapshots
    from diffusion_fw.training.module import DiffusionModule
    from diffusion_fw.training.snapshots import FOLDER

    parts = compose_parts(config)
    history = History(every=config["trainer"].get("log_every_n_steps", 50))
    loggers = [lasting(item) for item in build_loggers(config, folder, labels_of("train"))]
    passed = {
        "history": history,
        "loggers": loggers,
        "data": parts.latents,
        "space": parts.space,
        "sampler": parts.sampler,
        "wrap": parts.wrap,
        "conditioner": parts.conditioner,
        "metric": parts.metric,
        "classifier": parts.classifier,
        "autoencoder": config["network"] if is_autoencoder(parts.denoiser.network) else None,
        "folder": folder,
        "seed": config["seed"],
    }
    built = {name: build_callback(name, section, passed) for name, section in config["callbacks"].items()}
    check_gradients(config, built)
    check_monitors(built, parts.averages.weights_name)
    callbacks = [history, *built.values()]
    if parts.averages.snapshot_every:
        callbacks.append(Snapshots(folder / FOLDER, parts.averages.snapshot_every))
    try:
        trainer = assemble("trainer", config["trainer"], loggers=loggers, callbacks=callbacks, folder=folder)
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(f"trainer={config['trainer']['name']}: {error}") from error
    trainer.callbacks.sort(key=place)  # type: ignore[attr-defined]
    # The trainer may find another number of processes than the config states, as on a cluster.
    check_processes(config, parts.metric, trainer.world_size)
    module = DiffusionModule(
        parts.denoiser,
        parts.objective,
        parts.time_sampler,
        parts.averages,
        optimizer=lambda params: assemble("optimizer", config["optimizer"], params=params),
        lr_schedule=parts.lr_schedule,
        examples=parts.conditioner.examples(parts.latents, "train"),
        batch_size=config["batch_size"],
        seed=config["seed"],
        # A classifier is told every label; dropping some trains a model for classifier-free guidance.
        label_dropout=0.0 if parts.classifier else config["label_dropout"],
        conditioner=parts.told,
        num_workers=config["num_workers"],
        augmentations=parts.augmentations,
        record={
            **checkpoint_record({**config, "features": {**config["features"], "name": parts.features}}, parts.facts),
            "fingerprints": parts.data.fingerprints,
            "text_encoder": parts.conditioner.encoder_fingerprint,
            **({"codec": codec} if (codec := parts.space.record()) else {}),
        },
    )
    choice = config.get("compile", False)
    lay_out(module, trainer.strategy.root_device, compiled=bool(choice))
    # The first average draws the samples of an evaluation.
    for denoiser in {parts.denoiser, module.averaged}:
        compile_network(denoiser, choice)
    evaluation = built.get("evaluation")
    kept = (parts.data, parts.space, parts.denoiser, parts.sampler, parts.metric)
    return Experiment(*kept, history, evaluation, module, trainer)


def build_callback(name: str, section: Config, passed: Mapping[str, Any]) -> Any:
    """A callback of the config; ConfigError for settings that Lightning refuses."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        return assemble("callbacks", section, **passed)
    except MisconfigurationException as error:
        raise ConfigError(f"callbacks.{name}: {error}") from error


def place(callback: Any) -> int:
    """Where a callback comes among the others: those that evaluate see what the others made of the step.

    A checkpoint of the step holds the state of all of them.
    """
    from lightning.pytorch.callbacks import Checkpoint

    from diffusion_fw.training.callbacks.heldout import IntervalCallback

    return 2 if isinstance(callback, Checkpoint) else 1 if isinstance(callback, IntervalCallback) else 0


def build_loggers(config: Config, folder: Path, labels: Labels) -> list[Any]:
    """The loggers of a run that writes into ``folder``."""
    if os.environ.get("WANDB_SWEEP_ID") and "wandb" not in config["logger"]:
        logger.warning("this run belongs to a sweep of W&B, which hears nothing of it; choose logger=[csv,wandb]")
    return [assemble("logger", section, folder=folder, labels=labels) for section in config["logger"].values()]


def labels_of(program: str) -> Labels:
    """What the run of this process belongs to, as far as Hydra knows."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not HydraConfig.initialized():
        return Labels(program)
    hydra = HydraConfig.get()
    sweep = Labels.sweep_in(hydra.sweep.dir) if hydra.mode == RunMode.MULTIRUN else None
    return Labels(program, sweep, hydra.runtime.choices.get("experiment"))


def checkpoint_record(config: Config, facts: Facts) -> dict[str, Any]:
    """What a checkpoint says about itself, in plain types that weights-only loading accepts."""
    from diffusion_fw import __version__

    return {
        "version": __version__,
        "config": plain(config),
        "facts": plain(asdict(facts)),
        "plugins": discovery.plugin_hashes(),
    }


def plain(value: Any) -> Any:
    """Nested mappings and sequences as dicts and lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
