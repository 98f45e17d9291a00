"""The parts of an experiment from the sections of its config, without a folder and without a trainer."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from diffusion_fw import registry
from diffusion_fw.codecs.codec import Codec
from diffusion_fw.composition.checks import (
    check_augmentations,
    check_averages,
    check_batch,
    check_callbacks,
    check_codec,
    check_fit,
    check_label_dropout,
    check_objective,
    check_optimizer_choice,
    check_sharding,
    check_trained_kind,
    check_trainer,
    check_velocity,
    is_gpu,
)
from diffusion_fw.composition.facts import Config, Facts
from diffusion_fw.composition.size_limit import within_machine, without_memory
from diffusion_fw.condition import CLASS
from diffusion_fw.conditions.conditioner import Conditioner
from diffusion_fw.data.dataset import Data
from diffusion_fw.data.latents import Space, measured
from diffusion_fw.denoiser import Denoiser, NetworkAutoencoder, NetworkClassifier, NetworkDenoiser
from diffusion_fw.metrics.features.extractor import FeatureExtractor
from diffusion_fw.metrics.metric import Metric, TrackedMetric
from diffusion_fw.networks.network import is_autoencoder, is_class_conditional, is_classifier
from diffusion_fw.objectives.objective import Objective
from diffusion_fw.objectives.time_sampler import TimeSampler
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.process.variance import Variance
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.sampler import Sampler
from diffusion_fw.training.augmentation import Augmentation
from diffusion_fw.training.ema import Averages

logger = logging.getLogger(__name__)


def assemble(group: str, section: Config, **passed: Any) -> Any:
    """A component from its section of the config, with those of the ``passed`` values that its signature asks for.

    ``passed`` holds what the group's entry in ``registry.GROUPS`` lists: all of it and nothing else.
    """
    listed = registry.GROUPS[group].runtime.keys()
    if passed.keys() != listed:
        raise TypeError(f"{group} is passed {sorted(passed)}, but registry.GROUPS lists {sorted(listed)}")
    if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
        raise ConfigError(f"{group} is not a component: it must be a mapping with a name")
    component = registry.entry(group, section["name"])
    wanted = {key: value for key, value in passed.items() if key in component.runtime}
    given = {key: value for key, value in section.items() if key != "name"}
    return registry.build(group, component.name, **given, **wanted)


FIXED_VARIANCE = {"name": "small"}
"""The variance of a config that names none."""


def build_variance(config: Config) -> Variance:
    """The variance of the reverse step."""
    variance: Variance = assemble("variance", config.get("variance") or FIXED_VARIANCE)
    return variance


def build_network(config: Config, facts: Facts) -> torch.nn.Module:
    """The untrained network of a config."""
    outputs = build_variance(config).outputs
    check_told(config, facts)
    name = config["network"]["name"]
    if outputs > 1 and "outputs" not in registry.entry("network", name).runtime:
        raise ConfigError(
            f"network={name} does not predict variances (its signature has no outputs: Runtime[int]), but "
            f"variance={config['variance']['name']} is learned; choose variance=small|large or another network"
        )
    network: torch.nn.Module = assemble("network", config["network"], **asdict(facts), outputs=outputs)
    return network


TOLD = ("vectors", "sequences", "images")
"""The facts that say what a model is told besides the class."""


def build_conditions(config: Config) -> Conditioner:
    """The conditions of a config, for a network that takes no class."""
    sections = config.get("condition") or {}
    asked = {name: registry.entry("condition", section["name"]) for name, section in sections.items()}
    # An encoder is read only where a condition is text.
    wanted = any("encoder" in entry.runtime for entry in asked.values())
    encoder = assemble("text_encoder", config["text_encoder"]) if wanted else None
    return Conditioner({name: assemble("condition", section, encoder=encoder) for name, section in sections.items()})


def check_told(config: Config, facts: Facts) -> None:
    """ConfigError where the network cannot be told what the conditions say."""
    name = config["network"]["name"]
    takes = registry.entry("network", name).runtime
    for kind in TOLD:
        told = list(getattr(facts, kind))
        if told and kind not in takes:
            able = [other for other in registry.names("network") if kind in registry.entry("network", other).runtime]
            raise ConfigError(
                f"condition={told[0]} is one of the {kind} that a model is told, and network={name} takes none (its "
                f"signature has no {kind}: Runtime[...]); choose network={'|'.join(able)}, or leave it out of condition"
            )


def build_model(config: Config, facts: Facts) -> NetworkDenoiser | NetworkClassifier | NetworkAutoencoder:
    """The untrained model of a config, the same for training and for loading a checkpoint."""
    known = asdict(facts)
    schedule = assemble("schedule", config["schedule"], **known)
    parameterization = assemble("parameterization", config["parameterization"], schedule=schedule, **known)
    network: Any = build_network(config, facts)
    lay_out(network, torch.device("cpu"))
    if is_classifier(network):
        return NetworkClassifier(network, schedule, parameterization, facts.num_classes)
    if is_autoencoder(network):
        return NetworkAutoencoder(network, schedule, parameterization)
    return NetworkDenoiser(network, schedule, parameterization, facts.data_range)


def check_size(config: Config, facts: Facts, limit: AbstractContextManager[None]) -> None:
    """Build the network without memory, within a limit on its size: one that is too large takes none."""
    with limit, without_memory():
        build_network(config, facts)


def build_denoiser(config: Config, facts: Facts) -> NetworkDenoiser:
    """``build_model`` of a network that denoises."""
    model = build_model(config, facts)
    if not isinstance(model, NetworkDenoiser):
        kind = "a classifier" if isinstance(model, NetworkClassifier) else "an autoencoder"
        raise ConfigError(f"network={config['network']['name']} is {kind}, which denoises nothing")
    return model


def lay_out(module: torch.nn.Module, device: torch.device, *, compiled: bool = False) -> None:
    """Bring the weights of 2-d convolutions into the layout that is faster on a device, in place.

    Channels last, but for a GPU that runs the network as it is: its GroupNorm has no kernel for channels last, so each
    would copy its input and its output to another layout. torch.compile makes a kernel that needs no copy.
    """
    layout = torch.contiguous_format if device.type == "cuda" and not compiled else torch.channels_last
    for tensor in (*module.parameters(), *module.buffers()):
        # Other tensors have one layout: channels_last is one of four axes.
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=layout)


def compile_network(denoiser: NetworkDenoiser, choice: bool | str) -> None:
    """torch.compile in place, so that the names of the weights stay; ``choice`` is true or one of its modes.

    A mode records CUDA graphs, which write every output into the same memory.
    """
    if choice:
        denoiser.network.compile(mode=choice if isinstance(choice, str) else "default")
        denoiser.copies_output = isinstance(choice, str)


def build_objective(config: Config, facts: Facts, schedule: Schedule) -> Objective:
    """The objective of a config with its weighting and variance."""
    weighting = assemble("weighting", config["weighting"], schedule=schedule, **asdict(facts))
    objective: Objective = assemble(
        "objective", config["objective"], weighting=weighting, schedule=schedule, variance=build_variance(config)
    )
    return objective


def build_sampler(config: Config) -> Sampler:
    """The sampler of a config with its grid and variance."""
    grid, variance = assemble("grid", config["grid"]), build_variance(config)
    sampler: Sampler = assemble("sampler", config["sampler"], grid=grid, variance=variance)
    return sampler


def is_conditional(denoiser: NetworkDenoiser | NetworkClassifier | NetworkAutoencoder) -> bool:
    """Whether the network takes labels as cond."""
    return is_class_conditional(denoiser.network)


def read_image(path: str, channels: int) -> torch.Tensor:
    """uint8 (channels, H, W) of an image file; the reader is imported when there is one to read."""
    from diffusion_fw.data.formats import given_images

    return given_images.read_image(path, channels)


def build_wrappers(
    config: Config,
    facts: Facts,
    conditional: bool,
    told: Mapping[str, bool] | None = None,
    load: Callable[..., Denoiser] | None = None,
    load_classifier: Callable[..., NetworkClassifier] | None = None,
) -> Callable[[Denoiser], Denoiser]:
    """The function that wraps a denoiser in every guidance of the config, the first of them innermost.

    ``told`` says what the model is told, and whether training left it out for some examples. ``load(checkpoint,
    **weights)`` gives a guidance a second model, where there may be one, and ``load_classifier`` a classifier.
    """
    known = {
        **asdict(facts),
        "num_classes": facts.num_classes if conditional else 0,
        "told": told,
        "seed": config["seed"],
        "read_image": read_image,
        "load": load,
        "load_classifier": load_classifier,
    }

    def wrap(denoiser: Denoiser) -> Denoiser:
        for section in config["guidance"].values():
            denoiser = assemble("guidance", section, denoiser=denoiser, schedule=denoiser.schedule, **known)
        return denoiser

    return wrap


def build_data(config: Config) -> Data:
    """The data set of a config; its files are read when a split is first used."""
    if "data" not in config:
        raise ConfigError(
            "the model names no data set, as it was imported without one; import it with data=NAME, or give data=NAME"
        )
    data: Data = assemble("data", config["data"])
    return data


NO_CODEC = {"name": "none"}
"""The codec of a config that names none, as one from before there were codecs."""


def build_codec(config: Config) -> Codec:
    """The codec of a config."""
    codec: Codec = assemble("codec", config.get("codec") or NO_CODEC)
    return codec


def encoding_device(config: Config) -> torch.device:
    """Where a run encodes before it trains: a process that forks must not use a GPU before."""
    trainer = config["trainer"]
    gpu = is_gpu(trainer.get("accelerator", "auto")) and "fork" not in trainer.get("strategy", "auto")
    return torch.device("cuda" if gpu else "cpu")


def check_data(data: Data, config: Config, record: Mapping[str, Any]) -> None:
    """Whether the data of ``config`` are those of a checkpoint's record: ConfigError, or a warning if not moved."""
    expected = record.get("fingerprints")
    if expected is None or data.fingerprints == expected:
        return
    places = {key: config["data"][key] for key in data.places}
    text = ", ".join(f"data.{key}={value}" for key, value in places.items()) or f"data={config['data']['name']}"
    if any(record["config"]["data"].get(key) != value for key, value in places.items()):
        raise ConfigError(f"{text}: these are not the data of the training, whose content was another")
    logger.warning("%s: the data have changed since the training", text)


def features_section(config: Config, data: Data) -> Config:
    """The chosen features: the data's own for features=auto."""
    section: Config = config["features"]
    if section["name"] != "auto":
        return section
    parameters = registry.entry("features", data.default_features).parameters
    return {"name": data.default_features, **{key: item.default for key, item in parameters.items()}}


def build_features(config: Config, data: Data) -> FeatureExtractor:
    """The chosen features."""
    features: FeatureExtractor = assemble("features", features_section(config, data), shape=data.shape)
    return features


def assemble_metric(
    section: Config,
    config: Config,
    data: Data,
    features: FeatureExtractor | None = None,
    latents: Data | None = None,
) -> Metric:
    """The metric of a section, on ``features`` or else on those of the config.

    ``latents`` are the data as the model sees them, if it does not see the ``data`` themselves.
    """
    wanted = registry.entry("metric", section["name"]).runtime
    if "features" in wanted and features is None:
        features = build_features(config, data)
    # Samples that files hold have no grid.
    grid = assemble("grid", config["grid"]) if "grid" in wanted else None
    samples = getattr(registry.entry("metric", section["name"]).factory, "of_samples", False)
    # A metric that draws no samples evaluates the model itself.
    test = data.test if latents is None or samples else latents.test
    known = {"features": features, "reference": data.test, "train": data.originals, "test": test, "grid": grid}
    metric: Metric = assemble("metric", section, **known)
    return metric


def build_metric(config: Config, data: Data) -> tuple[Metric, str]:
    """The metric of a training's config on the chosen features, and the features' name."""
    return assemble_metric(config["metric"], config, data), features_section(config, data)["name"]


def build_tracked_metric(config: Config, data: Data) -> tuple[TrackedMetric, str]:
    """``build_metric`` for training. Raises ConfigError for a metric that cannot be tracked."""
    metric, features = build_metric(config, data)
    if not isinstance(metric, TrackedMetric):
        name = config["metric"]["name"]
        raise ConfigError(
            f"metric={name} cannot be tracked during training; choose metric=fid or metric=none, and "
            f"`python evaluate.py checkpoint=... metric={name}` afterwards"
        )
    return metric, features


def left_out(conditioner: Conditioner, label_dropout: float) -> dict[str, bool]:
    """What a model is told, by name, and whether training left it out for some examples."""
    names = [*conditioner.sources, *([CLASS] if conditioner.num_classes else [])]
    own = conditioner.dropouts()
    return {name: label_dropout > 0 or name in own for name in names}


@dataclass(frozen=True)
class Parts:
    """What a training run consists of, but for its trainer and what writes into its folder."""

    data: Data
    latents: Data
    """The data as the model sees them: the same without a codec."""
    space: Space
    facts: Facts
    """Of what the model sees."""
    denoiser: Any
    """A NetworkDenoiser, or the NetworkClassifier or NetworkAutoencoder that is trained."""
    conditioner: Conditioner
    sampler: Sampler
    wrap: Callable[[Denoiser], Denoiser]
    """Wraps a denoiser in every guidance."""
    time_sampler: TimeSampler
    objective: Objective
    augmentations: list[Augmentation]
    averages: Averages
    lr_schedule: Callable[[int], float]
    metric: TrackedMetric
    features: str
    """The name of the metric's features."""

    @property
    def told(self) -> Conditioner:
        """What the trained model is told; a classifier is given the classes, which it learns to tell."""
        classes = self.facts.num_classes if self.classifier else self.conditioner.num_classes
        return replace(self.conditioner, num_classes=classes)

    @property
    def classifier(self) -> NetworkClassifier | None:
        """The classifier that is trained; None if the network is none."""
        return self.denoiser if is_classifier(self.denoiser.network) else None

    @property
    def draws(self) -> bool:
        """Whether samples can be drawn from what is trained."""
        return isinstance(self.denoiser, NetworkDenoiser)


@contextlib.contextmanager
def within_memory() -> Iterator[None]:
    """ConfigError where something in the block is too large to be made: torch has several errors for that."""
    try:
        yield
    except (MemoryError, OverflowError, RuntimeError) as error:
        said = " ".join(str(error).split())
        if isinstance(error, RuntimeError) and not TOO_LARGE.search(said):
            raise
        raise ConfigError(
            "a value of the config is too large, such as batch_size, sampler.steps or a size of the network: "
            f"{said:.200}"
        ) from error


TOO_LARGE = re.compile(
    r"not enough memory|allocate memory|out of memory|overflow|invalid size|cannot be represented", re.I
)


@within_memory()
def compose_parts(config: Config) -> Parts:
    """Build and check everything of a training run that needs neither a folder nor a trainer; nothing is written.

    Raises ConfigError where the parts don't fit together.
    """
    data, codec = build_data(config), build_codec(config)
    conditioner = build_conditions(config)
    check_codec(config, codec, conditioner)
    latents = measured(data, codec, encoding_device(config))
    facts = Facts.of(latents, config, conditioner)
    check_size(config, facts, within_machine(config["network"]))
    with within_machine(config["network"]):
        torch.manual_seed(config["seed"])
        denoiser: Any = build_model(config, facts)
    check_trained_kind(config, denoiser.network, facts, conditioner)
    check_sharding(config, "network", denoiser.network)
    check_velocity(config)
    schedule = denoiser.schedule
    sampler, variance = build_sampler(config), build_variance(config)
    if is_conditional(denoiser):
        conditioner = replace(conditioner, num_classes=facts.num_classes)
    told = left_out(conditioner, config["label_dropout"])
    wrap = build_wrappers(config, facts, is_conditional(denoiser), told)
    if isinstance(denoiser, NetworkDenoiser):
        check_label_dropout(config, told)
        check_fit(denoiser, wrap(denoiser).schedule, sampler, variance)
    time_sampler = assemble("time_sampler", config["time_sampler"], schedule=schedule)
    time_sampler(2, schedule)
    objective = build_objective(config, facts, schedule)
    check_objective(config, objective, variance)
    check_sharding(config, "objective", objective)
    # A run from before the group was there has none.
    chosen = config.get("augmentation", {}).values()
    augmentations = [assemble("augmentation", section, **asdict(facts)) for section in chosen]
    check_augmentations(config, augmentations, denoiser.network)
    averages = assemble("ema", config["ema"], batch_size=config["batch_size"])
    check_averages(config, averages)
    check_optimizer_choice(config)
    check_callbacks(config)
    lr_schedule = assemble("lr_schedule", config["lr_schedule"], max_steps=config["trainer"].get("max_steps", 1))
    check_batch(config, data)
    metric, features = build_tracked_metric(config, data)
    check_trainer(config, metric)
    return Parts(
        data,
        latents,
        Space.of(data, codec),
        facts,
        denoiser,
        conditioner,
        sampler,
        wrap,
        time_sampler,
        objective,
        augmentations,
        averages,
        lr_schedule,
        metric,
        features,
    )
