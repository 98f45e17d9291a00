"""How the parts of an experiment fit together: each check raises ConfigError with the config keys to change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diffusion_fw import registry
from diffusion_fw.codecs.codec import Codec
from diffusion_fw.composition.facts import Config, Facts
from diffusion_fw.conditions.conditioner import Conditioner
from diffusion_fw.data.dataset import Data
from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.metrics.metric import TrackedMetric
from diffusion_fw.networks.network import augment_dim, is_autoencoder, is_classifier, known_labels, writes_weights
from diffusion_fw.objectives.objective import Objective
from diffusion_fw.process.compatibility import check_parameterization
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.process.variance import Variance
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.sampler import Sampler
from diffusion_fw.training.augmentation import Augmentation
from diffusion_fw.training.ema import Averages
from diffusion_fw.training.trainer import check_devices

SHARDING = ("fsdp", "deepspeed")
"""Prefixes of the names of Lightning's strategies that shard the weights."""

logger = logging.getLogger(__name__)


def check_fit(denoiser: NetworkDenoiser, path: Schedule, sampler: Sampler, variance: Variance) -> None:
    """Whether the sampler can follow ``path`` and the parameterization can be solved at its times.

    A sampler that ignores a learned variance works, but may surprise: a warning.
    """
    sampler.check(path)
    check_labels(denoiser)
    level, own = sampler.levels(path), denoiser.schedule
    times = level.t if path is own else own.time(level.log_snr)
    check_parameterization(own, denoiser.parameterization, times)
    if variance.outputs > 1 and not sampler.uses_variance:
        logger.warning(
            "sampler: %s ignores the model's learned variance; sampler=ddpm samples with it", type(sampler).__name__
        )


def check_velocity(config: Config) -> None:
    """Whether the velocity of parameterization=flow is that of schedule=flow, which has a sigma_min of its own."""
    path, velocity = config["schedule"], config["parameterization"]
    if not path["name"] == velocity["name"] == "flow":
        return
    # A run from before sigma_min was there has none.
    ours, theirs = velocity.get("sigma_min", 0.0), path.get("sigma_min", 0.0)
    if ours != theirs:
        raise ConfigError(
            f"parameterization.sigma_min={ours:g} is not schedule.sigma_min={theirs:g}, so that parameterization=flow "
            "is not the velocity of schedule=flow; set both to the same value"
        )


def check_labels(denoiser: NetworkDenoiser) -> None:
    """Whether the network was built for the time labels of all levels, the smallest noise to the largest."""
    known = known_labels(denoiser.network)
    if known is None:
        return
    ends = torch.tensor([denoiser.schedule.t_min, 1.0], dtype=torch.float64)
    labels = denoiser.parameterization.input(denoiser.schedule(ends))[1].tolist()
    # A label is rounded to the nearest.
    if min(labels) < known[0] - 0.5 or max(labels) > known[1] + 0.5:
        count = known[1] + 1
        raise ConfigError(
            f"the parameterization gives the network time labels from {min(labels):g} to {max(labels):g}, but it "
            f"knows {known[0]:g} to {known[1]:g}; for a table of schedule.num_steps={count:g} rows set "
            f"parameterization.label_of=time, parameterization.label_scale={count:g} and "
            "parameterization.label_shift=-1, or choose another network=... or schedule=..."
        )


def check_label_dropout(config: Config, told: Mapping[str, bool]) -> None:
    """Whether a guidance that evaluates the model untold has a model that was trained untold too.

    ``told`` says what the model is told, and of what it is not always told.
    """
    if not told:
        return
    for name, section in config["guidance"].items():
        factory = registry.entry("guidance", section["name"]).factory
        # Where this parameter is true, the model gets the label.
        asks = getattr(factory, "asks_without_label", False) and not section.get("conditional", False)
        if asks and not any(told.values()):
            remedy = f"set guidance.{name}.conditional=true" if "conditional" in section else "remove it from guidance"
            raise ConfigError(
                f"guidance={name} evaluates the model without a label, but training always had one "
                f"(label_dropout=0); train with label_dropout=0.1 or so, or {remedy}"
            )


@dataclass(frozen=True)
class Kind:
    """What can be trained besides a denoiser: a network that draws no samples."""

    name: str
    """It is also the runtime name of the callbacks that measure it."""
    is_one: Callable[[torch.nn.Module], bool]
    trained_by: str
    """The attribute of the objectives that train it."""
    objective: str
    network: str
    callback: str

    @property
    def article(self) -> str:
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"

    @property
    def callbacks(self) -> str:
        return f"callbacks=[health,{self.callback},checkpoints,progress]"


KINDS = (
    Kind("classifier", is_classifier, "trains_classifier", "classifier", "adm_classifier", "accuracy"),
    Kind("autoencoder", is_autoencoder, "trains_autoencoder", "autoencoder", "kl_autoencoder", "reconstruction"),
)


def check_trained_kind(config: Config, trained: torch.nn.Module, facts: Facts, conditioner: Conditioner) -> None:
    """Whether a network that is no denoiser is trained by an objective for it, with nothing that needs samples.

    A classifier needs labels too.
    """
    for kind in KINDS:
        _check_kind(config, kind, kind.is_one(trained))
        if kind.is_one(trained) and conditioner.sources:
            raise ConfigError(
                f"condition={next(iter(conditioner.sources))}: {kind.article} is told nothing; choose condition=none"
            )
    if is_classifier(trained) and facts.num_classes == 0:
        raise ConfigError(
            f"objective={config['objective']['name']} needs labels, but data={config['data']['name']} has none"
        )


def _check_kind(config: Config, kind: Kind, is_one: bool) -> None:
    network, objective = config["network"]["name"], config["objective"]["name"]
    trains = getattr(registry.entry("objective", objective).factory, kind.trained_by, False)
    if trains and not is_one:
        raise ConfigError(
            f"objective={objective} trains {kind.article}, and network={network} is none; choose "
            f"network={kind.network}, or objective=simple"
        )
    callbacks = {name: registry.entry("callbacks", item["name"]) for name, item in config["callbacks"].items()}
    if not is_one:
        for name, entry in callbacks.items():
            if kind.name in entry.runtime:
                raise ConfigError(
                    f"callbacks={name} measures {kind.article}, and network={network} is none; choose "
                    f"callbacks=[health,evaluation,checkpoints,progress], or network={kind.network} with "
                    f"objective={kind.objective} and metric=none"
                )
        return
    if not trains:
        raise ConfigError(
            f"network={network} is {kind.article}, which objective={objective} does not train; choose "
            f"objective={kind.objective}, with metric=none and {kind.callbacks}"
        )
    metric = config["metric"]["name"]
    drawing = [f"metric={metric}"] if getattr(registry.entry("metric", metric).factory, "measures", True) else []
    drawing += [f"callbacks={name}" for name, entry in callbacks.items() if {"sampler", "wrap"} & entry.runtime.keys()]
    if drawing:
        raise ConfigError(
            f"{' and '.join(drawing)} need samples, and network={network} is {kind.article}, which draws none; choose "
            f"metric=none and {kind.callbacks}"
        )


def check_codec(config: Config, codec: Codec, conditioner: Conditioner) -> None:
    """Whether latents are what the rest of the run takes: examples that no augmentation or condition reads."""
    if codec.identity:
        return
    name = config["codec"]["name"]
    for condition in conditioner.sources.values():
        if condition.kind == "images":
            raise ConfigError(
                f"condition={'|'.join(conditioner.sources)} is made of pixels and concatenated to x_t, but "
                f"codec={name} makes x_t a latent; choose codec=none, or condition=[text]"
            )
    if chosen := list(config.get("augmentation", {})):
        raise ConfigError(
            f"augmentation=[{','.join(chosen)}] changes pixels, but codec={name} encodes the examples once, before "
            "training, so that the model never sees a pixel; choose augmentation=none, or for mirror images "
            "data.horizontal_flip=true, which are encoded too"
        )
    if getattr(registry.entry("objective", config["objective"]["name"]).factory, "trains_autoencoder", False):
        raise ConfigError(
            f"objective=autoencoder trains a codec, on examples, not on latents of codec={name}; choose codec=none"
        )


def check_objective(config: Config, objective: Objective, variance: Variance) -> None:
    """Whether a learned variance is trained, and the network has the derivatives that the objective needs."""
    if objective.differentiates and config.get("compile"):
        raise ConfigError(
            f"objective={config['objective']['name']} takes second derivatives, which a compiled network has not; "
            "choose compile=false"
        )
    if variance.outputs > 1 and not objective.trains_variance:
        raise ConfigError(
            f"objective={config['objective']['name']} does not train variance={config['variance']['name']}; "
            "choose objective=hybrid or objective=vlb, or variance=small or variance=large"
        )


def check_augmentations(config: Config, augmentations: Sequence[Augmentation], network: torch.nn.Module) -> None:
    """Whether the network takes the labels of the augmentations; otherwise it would draw augmented examples."""
    needed, known = sum(item.labels for item in augmentations), augment_dim(network)
    if needed and needed != known:
        raise ConfigError(
            f"augmentation=[{','.join(config['augmentation'])}] describes an example by {needed} labels, but "
            f"network={config['network']['name']} takes {known}; choose network=hdit, or "
            f"network=ddpmpp, ncsnpp or k_diffusion_unet with network.augment_dim={needed}, or augmentation=[none]"
        )


def check_sharding(config: Config, group: str, part: object) -> None:
    """Whether a network or objective that changes its weights in place holds them under the trainer's strategy.

    A strategy that shards the weights lends them to a forward pass, and what is written into them is lost.
    """
    strategy = config["trainer"].get("strategy", "auto")
    if writes_weights(part) and strategy.startswith(SHARDING):
        raise ConfigError(
            f"{group}={config[group]['name']} changes its weights in place in each training step, which "
            f"trainer.strategy={strategy} would lose; choose trainer.strategy=ddp, under which each process holds all "
            f"weights, or another {group}=..."
        )


def check_gradients(config: Config, callbacks: Mapping[str, Any]) -> None:
    """Whether callbacks that measure gradients see all of them, under the trainer's strategy and precision."""
    trainer = config["trainer"]
    strategy, precision = trainer.get("strategy", "auto"), trainer.get("precision")
    for name, callback in callbacks.items():
        if not getattr(callback, "whole_gradients", False):
            continue
        if precision == "16-mixed":
            raise ConfigError(
                f"callbacks={name} takes gradients of the loss as it is, of which trainer.precision=16-mixed, that "
                "scales the loss, loses the small ones; choose trainer.precision=bf16-mixed or trainer.precision=32"
            )
        if strategy.startswith(SHARDING):
            raise ConfigError(
                f"callbacks={name} needs the gradient of all weights, of which a process holds a part under "
                f"trainer.strategy={strategy}; choose trainer.strategy=ddp, or leave it out"
            )


def check_callbacks(config: Config) -> None:
    """Whether callbacks that log have a logger, and what is about evaluations has a callback that evaluates."""
    asked = {name: registry.entry("callbacks", item["name"]).runtime for name, item in config["callbacks"].items()}
    for name, runtime in asked.items():
        if "loggers" in runtime and not config["logger"]:
            raise ConfigError(f"callbacks={name} writes to the loggers, and logger=[] has none; choose logger=[csv]")
    if any("metric" in runtime for runtime in asked.values()):
        return
    given = [f"callbacks={name}" for name, item in config["callbacks"].items() if "monitor" in item]
    if interval := config["trainer"].get("val_check_interval"):
        given.append(f"trainer.val_check_interval={interval}")
    if given:
        raise ConfigError(f"{given[0]} is about evaluations, which no callback does; add evaluation to callbacks=[...]")


def check_monitors(callbacks: Mapping[str, Any], weights: str) -> None:
    """Whether what callbacks monitor is a number of an evaluation, of which a callback names its own by ``keys``."""
    known = [key for item in callbacks.values() if hasattr(item, "keys") for key in item.keys(weights)]
    for name, item in callbacks.items():
        monitor = getattr(item, "monitor", None)
        if monitor is not None and monitor not in known:
            raise ConfigError(
                f"callbacks.{name}.monitor={monitor} is no number of an evaluation{registry.nearest(monitor, known)}; "
                f"choose one of {', '.join(dict.fromkeys(known))}"
            )


def check_averages(config: Config, averages: Averages) -> None:
    """Whether the weights can be averaged under the trainer's strategy.

    A strategy that shards the weights cuts the trained network and its copy at different places.
    """
    strategy = config["trainer"].get("strategy", "auto")
    if averages.tracks and strategy.startswith(SHARDING):
        raise ConfigError(
            f"ema={config['ema']['name']} does not work with trainer.strategy={strategy}, under which no process holds "
            "all weights; choose ema=none, or trainer.strategy=ddp, under which each process holds all of them"
        )


def check_optimizer_choice(config: Config) -> None:
    """Whether the weights that schedule-free training is for are those that are kept, and Muon sees whole matrices."""
    optimizer, ema, schedule = (config[group]["name"] for group in ("optimizer", "ema", "lr_schedule"))
    strategy = config["trainer"].get("strategy", "auto")
    if optimizer == MUON and strategy.startswith(SHARDING):
        raise ConfigError(
            f"optimizer={MUON} makes matrices orthogonal, of which a process holds a part under "
            f"trainer.strategy={strategy}; choose trainer.strategy=ddp, or another optimizer=..."
        )
    if optimizer == SCHEDULE_FREE and schedule != "constant":
        logger.warning(
            "optimizer: %s needs no schedule, and lr_schedule=%s changes its rate; lr_schedule=constant warms it up "
            "alone",
            *(optimizer, schedule),
        )
    if (optimizer == SCHEDULE_FREE) != (ema == SCHEDULE_FREE):
        raise ConfigError(
            f"optimizer={optimizer} with ema={ema}: optimizer={SCHEDULE_FREE} trains the weights whose average "
            f"ema={SCHEDULE_FREE} keeps; choose both or neither"
        )


MUON, SCHEDULE_FREE = "muon", "schedule_free"


def check_batch(config: Config, data: Data) -> None:
    """Whether the data fill a batch."""
    if config["batch_size"] > len(data.train):
        raise ConfigError(
            f"batch_size={config['batch_size']} is larger than the {len(data.train)} training examples of "
            f"data={config['data']['name']}; lower batch_size"
        )


def check_trainer(config: Config, metric: TrackedMetric) -> None:
    """Whether this machine has the trainer's devices, and the batch and the samples divide among its processes."""
    trainer = config["trainer"]
    check_devices(
        trainer.get("accelerator", "auto"),
        trainer.get("strategy", "auto"),
        str(trainer.get("precision", "32-true")),
        trainer.get("gradient_clip_val", 0.0),
    )
    check_number_of_devices(trainer.get("accelerator", "auto"), trainer.get("devices", 1))
    check_processes(config, metric, processes(config))


def is_gpu(accelerator: str) -> bool:
    """Whether trainer.accelerator stands for GPUs here."""
    return accelerator == "gpu" or (accelerator == "auto" and torch.cuda.is_available())


def check_number_of_devices(accelerator: str, devices: Any) -> None:
    """Whether ``devices`` is a number of devices, or names those of this machine."""
    gpus = is_gpu(accelerator)
    named = isinstance(devices, list) and bool(devices) and min(devices) >= 0
    if devices == "auto" or (isinstance(devices, int) and devices > 0) or (gpus and (devices == -1 or named)):
        return
    raise ConfigError(
        f"trainer.devices={devices}: must be the number of devices, at least 1, or auto for all of this machine"
        + (", or a list of the numbers of GPUs" if gpus else "; a list of them and -1 are for GPUs")
    )


def check_processes(config: Config, metric: TrackedMetric, count: int) -> None:
    """Whether the batch and the samples divide among ``count`` processes."""
    accumulated = config["trainer"].get("accumulate_grad_batches", 1)
    parts = count * accumulated
    if config["batch_size"] % parts:
        raise ConfigError(
            f"batch_size={config['batch_size']} is that of all {count} processes and {accumulated} accumulated steps "
            f"together and must be a multiple of {parts}; change it, "
            "trainer.devices, trainer.num_nodes or trainer.accumulate_grad_batches"
        )
    if metric.num_samples < count:
        raise ConfigError(
            f"metric.num_samples={metric.num_samples} is less than one for each of the {count} processes; "
            "raise metric.num_samples or lower trainer.devices"
        )


def processes(config: Config) -> int:
    """How many processes the trainer of a config runs, on all machines together."""
    trainer = config["trainer"]
    devices = trainer.get("devices", 1)
    if isinstance(devices, list):
        count = len(devices)
    elif isinstance(devices, int) and devices > 0:
        count = devices
    else:
        count = 1 if trainer.get("accelerator") == "cpu" else max(1, torch.cuda.device_count())
    return int(trainer.get("num_nodes", 1)) * count
