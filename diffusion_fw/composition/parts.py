"""The parts of an experiment from their nodes of the config, and the checks of how they fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch

from diffusion_fw import registry
from diffusion_fw.composition.facts import Config, Facts
from diffusion_fw.data.dataset import Data
from diffusion_fw.denoiser import Denoiser, NetworkDenoiser
from diffusion_fw.networks.network import is_class_conditional
from diffusion_fw.process.compatibility import check_parameterization
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.process.variance import Variance
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.sampler import Sampler

SHARDING = ("fsdp", "deepspeed")
"""How the names of Lightning's strategies begin that cut the weights into parts."""

logger = logging.getLogger(__name__)


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
    return is_class_conditional(denoiser.network)


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
