"""The composition root: the one place where components meet, and where their fit is checked."""

from __future__ import annotations

import logging
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from diffusion_fw import discovery, registry
from diffusion_fw.data.source import Data, to_model
from diffusion_fw.denoiser import Denoiser, NetworkDenoiser
from diffusion_fw.process.compatibility import check_parameterization
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.process.variance import Variance
from diffusion_fw.registry import ConfigError, NonNegativeInt, PositiveInt
from diffusion_fw.samplers.base import Sampler

Config = Mapping[str, Any]

SHARDING = ("fsdp", "deepspeed")
"""How the names of Lightning's strategies begin that cut the weights into parts."""

LARGEST_EXAMPLE = 1 << 28
"""Values of one example: no more are believed of a checkpoint's data."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What the model has to know of its data; a checkpoint carries it, so that no data is needed to load a model."""

    shape: tuple[PositiveInt, ...]
    num_classes: NonNegativeInt
    class_names: tuple[str, ...]
    data_range: tuple[float, float]
    pixels: bool
    data_diameter: float | None = None
    data_std: float | None = None

    @staticmethod
    def of(data: Data, config: Config) -> Facts:
        """The facts of a data set; what takes a pass over the data is measured only where a knob says "auto"."""
        measured = {}
        if any("auto" in section.values() for section in (config["schedule"], config["parameterization"])):
            measured = measure(data)
        bounds = data.value_range or training_bounds(data)
        pixels = data.value_range is not None
        return Facts(data.shape, data.num_classes, data.class_names, bounds, pixels, **measured)

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Facts:
        """ConfigError for facts of the wrong kind, and for examples larger than LARGEST_EXAMPLE."""
        fields = typing.get_type_hints(Facts, include_extras=True)
        try:
            facts = Facts(**{key: registry.convert(fields[key], value) for key, value in record.items()})
        except (KeyError, TypeError, ValueError):
            raise ConfigError("the facts of its data are not those of a data set") from None
        if math.prod(facts.shape) > LARGEST_EXAMPLE:
            raise ConfigError(f"its examples of shape {facts.shape} have more than {LARGEST_EXAMPLE:,} values")
        return facts


def training_bounds(data: Data) -> tuple[float, float]:
    """The smallest and the largest training value: no mean of training examples lies outside."""
    values, _ = data.train.__getitems__(range(len(data.train)))
    return float(values.min()), float(values.max())


def measure(data: Data, most: int = 4000) -> dict[str, float]:
    """The largest distance between two training examples and the standard deviation of their values.

    Of at most ``most`` examples, evenly chosen. The distance is technique 1 of Song & Ermon 2020.
    """
    count = len(data.train)
    indices = torch.linspace(0, count - 1, min(count, most)).round().long().tolist()
    values = to_model(data.train.__getitems__(indices)[0]).flatten(1)
    return {"data_diameter": float(torch.cdist(values, values).max()), "data_std": float(values.double().std())}


def assemble(group: str, section: Config, **facts: Any) -> Any:
    """A component from its node of the config, with those of the facts that its signature asks for."""
    if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
        raise ConfigError(f"{group} is not a component: it must be a mapping with a name")
    parameters = registry.entry(group, section["name"]).parameters
    wanted = {
        key: value
        for key, value in facts.items()
        if key in parameters and registry.is_runtime(parameters[key].annotation)
    }
    knobs = {key: value for key, value in section.items() if key != "name"}
    return registry.build(group, section["name"], **knobs, **wanted)


FIXED_VARIANCE = {"name": "small"}
"""The variance of a config that says nothing of it."""


def build_variance(config: Config) -> Variance:
    """The variance of the reverse step."""
    variance: Variance = assemble("variance", config.get("variance") or FIXED_VARIANCE)
    return variance


def own_variance(config: Config, trained: Config) -> dict[str, Any]:
    """A config with the variance that it asks for, or else that of the model's training."""
    return {**config, "variance": config.get("variance") or trained.get("variance") or FIXED_VARIANCE}


def build_network(config: Config, facts: Facts) -> torch.nn.Module:
    """The untrained network of a config."""
    outputs = build_variance(config).outputs
    name = config["network"]["name"]
    if outputs > 1 and "outputs" not in registry.entry("network", name).parameters:
        raise ConfigError(
            f"network={name} does not predict variances (its signature has no outputs: Runtime[int]), but "
            f"variance={config['variance']['name']} is learned; choose variance=small|large or another network"
        )
    network: torch.nn.Module = assemble("network", config["network"], **asdict(facts), outputs=outputs)
    return network


def build_denoiser(config: Config, facts: Facts) -> NetworkDenoiser:
    """The untrained model of a config, the same for training and for loading a checkpoint."""
    known = asdict(facts)
    schedule = assemble("schedule", config["schedule"], **known)
    parameterization = assemble("parameterization", config["parameterization"], schedule=schedule, **known)
    network: Any = build_network(config, facts)
    # Convolutions are quicker with the channels last; what has none is left as it is.
    return NetworkDenoiser(network.to(memory_format=torch.channels_last), schedule, parameterization)


def build_sampler(config: Config) -> Sampler:
    """The sampler of a config on its grid, with its variance."""
    grid, variance = assemble("grid", config["grid"]), build_variance(config)
    sampler: Sampler = assemble("sampler", config["sampler"], grid=grid, variance=variance)
    return sampler


def is_conditional(denoiser: NetworkDenoiser) -> bool:
    """Whether the network was told of classes: it then has ``class_conditional``, and takes labels as cond."""
    return bool(getattr(denoiser.network, "class_conditional", False))


def build_wrappers(
    config: Config, facts: Facts, conditional: bool, load: Callable[..., Denoiser] | None = None
) -> Callable[[Denoiser], Denoiser]:
    """The function that wraps a denoiser in every guidance of the config, the first of them innermost.

    ``load(checkpoint, **weights)`` gives a guidance a second model, where there may be one.
    """
    known = {**asdict(facts), "num_classes": facts.num_classes if conditional else 0, "load": load}

    def wrap(denoiser: Denoiser) -> Denoiser:
        for section in config["guidance"].values():
            denoiser = assemble("guidance", section, denoiser=denoiser, schedule=denoiser.schedule, **known)
        return denoiser

    return wrap


def check_label_dropout(config: Config, label_dropout: float) -> None:
    """ConfigError for a guidance that asks without a label a model that always had one in training."""
    for name, section in config["guidance"].items():
        factory = registry.entry("guidance", section["name"]).factory
        if label_dropout == 0 and getattr(factory, "asks_without_label", False):
            raise ConfigError(
                f"guidance={name} asks the model without a label, and training had one always (label_dropout=0); "
                "train with label_dropout=0.1 or so, or take it out of guidance"
            )


def check_fit(denoiser: NetworkDenoiser, path: Schedule, sampler: Sampler, variance: Variance) -> None:
    """Find by arithmetic what cannot work together, for a sampler that follows ``path``: ConfigError with the keys.

    A sampler that leaves a learned variance unused works, but not as one may think: a warning.
    """
    sampler.check(path)
    level, own = sampler.levels(path), denoiser.schedule
    times = level.t if path is own else own.time(level.log_snr)
    check_parameterization(own, denoiser.parameterization, times)
    if variance.outputs > 1 and not sampler.uses_variance:
        logger.warning(
            "sampler: %s leaves the model's learned variance unused; sampler=ddpm samples with it",
            type(sampler).__name__,
        )


def check_averages(config: Config, averages: Any) -> None:
    """ConfigError for averages under a strategy that gives each process a part of the weights.

    The parts of the trained network and of its copy are cut at different places, so they cannot be averaged as they
    lie.
    """
    strategy = config["trainer"].get("strategy", "auto")
    if averages.tracks and strategy.startswith(SHARDING):
        raise ConfigError(
            f"ema={config['ema']['name']} does not work with trainer.strategy={strategy}, which leaves no process the "
            "whole weights; choose ema=none, or trainer.strategy=ddp, which leaves each process all of them"
        )


def build_data(config: Config) -> Data:
    """The data set of a config; its files are read when its splits are first asked for."""
    data: Data = assemble("data", config["data"])
    return data


def build_metric(config: Config, data: Data) -> tuple[Any, str]:
    """The metric on the chosen features (data's own for features=auto), and the features' name."""
    section = config["features"]
    if section["name"] == "auto":
        knobs = registry.entry("features", data.default_features).knobs
        section = {"name": data.default_features, **{key: knob.default for key, knob in knobs.items()}}
    features, grid = assemble("features", section, shape=data.shape), assemble("grid", config["grid"])
    known = {"features": features, "reference": data.test, "train": data.train, "test": data.test, "grid": grid}
    return assemble("metric", config["metric"], **known), section["name"]


@dataclass(frozen=True)
class Experiment:
    """Everything that a training run is made of."""

    data: Data
    denoiser: NetworkDenoiser
    sampler: Sampler
    metric: Any
    history: Any
    evaluation: Any
    module: Any
    trainer: Any


def build_experiment(config: Config, folder: Path) -> Experiment:
    """Build and check a training run that writes into ``folder``; ConfigError where its parts don't fit."""
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    from diffusion_fw.training.history import History
    from diffusion_fw.training.module import DiffusionModule
    from diffusion_fw.training.snapshots import FOLDER, Snapshots

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
    metric, features = build_metric(config, data)
    if not metric.of_samples:
        raise ConfigError(
            f"metric={config['metric']['name']} cannot be tracked during training; choose metric=fid, and "
            f"`python evaluate.py checkpoint=... metric={config['metric']['name']}` afterwards"
        )

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
