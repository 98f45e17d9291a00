"""A training run: its parts built, checked and put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from diffusion_fw.composition.facts import Config, Facts
from diffusion_fw.composition.parts import (
    assemble,
    build_data,
    build_denoiser,
    build_sampler,
    build_tracked_metric,
    build_variance,
    build_wrappers,
    check_averages,
    check_fit,
    check_label_dropout,
    is_conditional,
)
from diffusion_fw.data.dataset import Data
from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.metrics.metric import TrackedMetric
from diffusion_fw.registry import ConfigError, discovery
from diffusion_fw.samplers.sampler import Sampler


@dataclass(frozen=True)
class Experiment:
    """Everything that a training run is made of."""

    data: Data
    denoiser: NetworkDenoiser
    sampler: Sampler
    metric: TrackedMetric
    history: Any
    evaluation: Any
    module: Any
    trainer: Any


def build_experiment(config: Config, folder: Path) -> Experiment:
    """Build and check a training run that writes into ``folder``; ConfigError where its parts don't fit."""
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    from diffusion_fw.training.callbacks.history import History
    from diffusion_fw.training.callbacks.snapshots import FOLDER, Snapshots
    from diffusion_fw.training.module import DiffusionModule

    data = build_data(config)
    facts = Facts.of(data, config)
    torch.manual_seed(config["seed"])
    denoiser = build_denoiser(config, facts)
    sampler = build_sampler(config)
    variance = build_variance(config)
    wrap = build_wrappers(config, facts, is_conditional(denoiser))
    check_fit(denoiser, wrap(denoiser).schedule, sampler, variance)
    check_label_dropout(config, config["label_dropout"])
    time_sampler = assemble("time_sampler", config["time_sampler"], schedule=denoiser.schedule)
    time_sampler(2, denoiser.schedule)
    weighting = assemble("weighting", config["weighting"], schedule=denoiser.schedule, **asdict(facts))
    objective = assemble(
        "objective", config["objective"], weighting=weighting, schedule=denoiser.schedule, variance=variance
    )
    if variance.outputs > 1 and not objective.trains_variance:
        raise ConfigError(
            f"objective={config['objective']['name']} does not train variance={config['variance']['name']}; "
            "choose objective=hybrid or objective=vlb, or variance=small or variance=large"
        )
    averages = assemble("ema", config["ema"])
    check_averages(config, averages)
    if config["batch_size"] > len(data.train):
        raise ConfigError(
            f"batch_size={config['batch_size']} is larger than the {len(data.train)} training examples of "
            f"data={config['data']['name']}; lower batch_size"
        )
    metric, features = build_tracked_metric(config, data)

    max_steps = config["trainer"].get("max_steps", 1)
    history = History(every=config["trainer"].get("log_every_n_steps", 50))
    loggers = [assemble("logger", section, folder=folder) for section in config["logger"].values()]
    runtime = {
        "history": history,
        "data": data,
        "sampler": sampler,
        "wrap": wrap,
        "metric": metric,
        "folder": folder,
        "seed": config["seed"],
    }
    built = {name: assemble("callbacks", section, **runtime) for name, section in config["callbacks"].items()}
    watching = [history, *built.values()]
    if averages.snapshot_every:
        watching.append(Snapshots(folder / FOLDER, averages.snapshot_every))
    try:
        trainer = assemble("trainer", config["trainer"], loggers=loggers, callbacks=watching, folder=folder)
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(f"trainer={config['trainer']['name']}: {error}") from error
    parts = trainer.world_size * trainer.accumulate_grad_batches
    if config["batch_size"] % parts:
        raise ConfigError(
            f"batch_size={config['batch_size']} is that of all {trainer.world_size} processes and "
            f"{trainer.accumulate_grad_batches} accumulated steps together and must be a multiple of {parts}"
        )
    if metric.num_samples < trainer.world_size:
        raise ConfigError(
            f"metric.num_samples={metric.num_samples} is less than one for each of the {trainer.world_size} processes; "
            "raise metric.num_samples or lower trainer.devices"
        )
    module = DiffusionModule(
        denoiser,
        objective,
        time_sampler,
        averages,
        optimizer=lambda params: assemble("optimizer", config["optimizer"], params=params),
        lr_schedule=assemble("lr_schedule", config["lr_schedule"], max_steps=max_steps),
        examples=data.train,
        batch_size=config["batch_size"],
        seed=config["seed"],
        conditional=is_conditional(denoiser),
        label_dropout=config["label_dropout"],
        num_classes=data.num_classes,
        num_workers=config["num_workers"],
        record=checkpoint_record({**config, "features": {**config["features"], "name": features}}, facts),
    )
    if config.get("compile"):
        # In place, so that the names of the weights stay; after the averages were copied, which are evaluated plainly.
        denoiser.network.compile()
    return Experiment(data, denoiser, sampler, metric, history, built.get("evaluation"), module, trainer)


def checkpoint_record(config: Config, facts: Facts) -> dict[str, Any]:
    """What a checkpoint says of itself, in plain types that weights-only loading accepts."""
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
