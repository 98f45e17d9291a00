"""A trained model as `sample.py` and `evaluate.py` use it: its weights, guidance, sampler and device."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_fw import __version__, registry
from diffusion_fw.app.device import choose
from diffusion_fw.app.memory import describe_sampling_memory
from diffusion_fw.checkpoints.load import load_chosen, load_chosen_classifier
from diffusion_fw.checkpoints.read import checkpoint_hash, checkpoint_of, read
from diffusion_fw.checkpoints.weights import Choice
from diffusion_fw.codecs.codec import FILE as CODEC_FILE
from diffusion_fw.composition.checks import check_fit, check_label_dropout
from diffusion_fw.composition.facts import Facts
from diffusion_fw.composition.own import DRAWING, with_training
from diffusion_fw.composition.parts import (
    NO_CODEC,
    TOLD,
    assemble,
    build_codec,
    build_conditions,
    build_data,
    build_features,
    build_objective,
    build_sampler,
    build_variance,
    build_wrappers,
    check_data,
    compile_network,
    is_conditional,
    lay_out,
    left_out,
    within_memory,
)
from diffusion_fw.conditions.conditioner import Asking, Conditioner
from diffusion_fw.config.groups import OWN_GROUPS
from diffusion_fw.data.dataset import Data
from diffusion_fw.data.latents import Space, seen
from diffusion_fw.denoiser import Denoiser, NetworkClassifier, NetworkDenoiser
from diffusion_fw.metrics.metric import Training
from diffusion_fw.modes.mode import Model as ModelAtWork
from diffusion_fw.pictures.view import Stamped, view_for
from diffusion_fw.process.variance import Variance
from diffusion_fw.provenance import config_hash
from diffusion_fw.registry import OWN, ConfigError
from diffusion_fw.samplers.sampler import Sampler
from diffusion_fw.sampling.chunk import Chunk, chunk_size, measure_chunk
from diffusion_fw.sampling.draw import classes_of, draw
from diffusion_fw.sampling.share import smallest
from diffusion_fw.training.archive import RECORD_KEY

logger = logging.getLogger(__name__)

MOST_LISTED = 20
"""Names of classes that a message lists."""

ASKED = ("prompt", "image", "mask", "vector")
"""The keys of sample.py that say what samples are told."""

TRAINED_WITH = ("objective", "weighting", "parameterization", "schedule", "variance", "time_sampler")
"""The groups on which the loss of a model depends besides its weights."""

PRECISIONS: dict[str, torch.dtype | None] = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Trained:
    """A model from a checkpoint, with the choices of a program's config."""

    config: dict[str, Any]
    """The program's, with what the model was trained with for ``own`` in the groups that drawing takes."""
    record: dict[str, Any]
    """What the checkpoint says about itself."""
    facts: Facts
    """Of what the model works on."""
    space: Space
    """What that stands for: the examples."""
    choice: Choice
    network: NetworkDenoiser
    denoiser: Denoiser
    """The network with its guidance."""
    sampler: Sampler
    variance: Variance
    conditioner: Conditioner
    """What the model is told."""
    class_counts: tuple[int, ...]
    """How often each class is drawn, relatively; 0 where that is not known; empty for a model that takes no labels."""
    device: torch.device
    chosen: tuple[int, ...]
    """The classes that the samples have in turn; empty where they are as frequent as in the training data."""
    own_data: bool
    """Whether the data are those of the training."""

    @property
    def num_classes(self) -> int:
        """0 for a model that takes no labels."""
        return len(self.class_counts)

    @functools.cached_property
    def chunk(self) -> Chunk:
        """The memory that drawing a chunk of samples takes."""
        with uncompiled():
            return measure_chunk(self.sampler, self.denoiser, self.facts.shape, self._blank, self.device)

    def _blank(self, indices: Sequence[int]) -> Any:
        return self.facts.blank(len(indices), takes_class=self.num_classes > 0)

    @functools.cached_property
    def batch_size(self) -> int:
        """The config's, or for "auto" one that fits into the memory of every process."""
        return smallest(chunk_size(self.config["batch_size"], lambda: self.chunk, self.device))

    @functools.cached_property
    def asking(self) -> Asking | None:
        """What samples are told, for a model that is told more than the class.

        Raises ConfigError where the config asks for what the model is not told.
        """
        asking = Asking(
            self.conditioner,
            self.facts.shape,
            lambda: self.latents,
            self.config["seed"],
            {key: self.config.get(key) for key in ASKED},
            torch.tensor(self.chosen) if self.chosen else None,
            self.record["config"].get("label_dropout", 0) == 0,
        )
        for name, size in self.facts.vectors.items():
            if name in asking.given and (given := asking.given[name].values.value.shape[1]) != size:
                raise ConfigError(f"condition={name}: {given} numbers are given, but the model is told {size}")
        return asking if self.conditioner.sources else None

    def class_of(self, indices: Sequence[int]) -> Tensor | None:
        """The class of each sample, int64 on the host; None for a model that takes no labels.

        A model with conditions that draws like the held-out examples has their classes, whether it is told them or not.
        """
        if self.asking:
            return self.asking.class_of(indices)
        if not self.chosen:
            return classes_of(self.class_counts, self.config["seed"])(indices)
        return torch.tensor(self.chosen)[torch.tensor(indices) % len(self.chosen)]

    def cond_of(self, indices: Sequence[int]) -> Any:
        """What each sample is told, on the host; None for a model that is told nothing."""
        return self.asking.cond_of(indices) if self.asking else self.class_of(indices)

    def memory(self, count: int, *, copies: int = 0) -> str:
        """The peak of drawing ``count`` samples as text, with ``copies`` copies of all of them held at once."""
        example = math.prod(self.space.shape) * (1 if self.space.pixels else torch.empty(0).element_size())
        size = min(count, self.batch_size)
        return describe_sampling_memory(self.network, self.chunk, size, kept=copies * count * example)

    @functools.cached_property
    def complete(self) -> dict[str, Any]:
        """The config with what the model was trained with in all groups."""
        return with_training(self.config, self.record["config"], set(OWN_GROUPS) - set(DRAWING))

    @functools.cached_property
    def data(self) -> Data:
        """The data of the training, wherever they are now, or those that the config chooses.

        Raises ConfigError for data that are not those of the training, and for others whose examples the model cannot
        take.
        """
        data = build_data(self.complete)
        if self.own_data:
            check_data(data, self.complete, self.record)
        elif (data.shape, data.pixels) != (self.space.shape, self.space.pixels):
            raise ConfigError(
                f"data={self.config['data']['name']} has {_kind(data.shape, data.pixels)}, but the model was "
                f"trained on {_kind(self.space.shape, self.space.pixels)}"
            )
        elif self.num_classes and data.num_classes not in (0, self.num_classes):
            raise ConfigError(
                f"data={self.config['data']['name']} has {data.num_classes} classes, but the model takes labels of "
                f"{self.num_classes}"
            )
        return data

    @functools.cached_property
    def latents(self) -> Data:
        """The data as the model sees them."""
        return self.seen(self.data)

    def seen(self, data: Data) -> Data:
        """Data as the model sees them; ConfigError where their latents are not like those of the training."""
        return seen(data, self.space.codec, self.device)

    def check_sampler(self) -> None:
        """ConfigError where the sampler does not fit the model."""
        check_fit(self.network, self.denoiser.schedule, self.sampler, self.variance)

    @property
    def training(self) -> Training:
        """What the model was trained with; ConfigError where the checkpoint does not say it, as an imported one."""
        config = self.record["config"]
        missing = [group for group in TRAINED_WITH if group not in config and group != "variance"]
        if missing:
            raise ConfigError(
                f"checkpoint={self.config['checkpoint']} does not say with what {', '.join(missing)} it was trained, "
                "on which its loss depends; choose metric=fid or metric=nll"
            )
        return Training(
            network=self.network,
            objective=build_objective(config, self.facts, self.network.schedule),
            time_sampler=assemble("time_sampler", config["time_sampler"], schedule=self.network.schedule),
            sections={group: config[group] for group in TRAINED_WITH if group in config},
        )

    def provenance(self, program: str) -> dict[str, Any]:
        """What files of samples say about what made them."""
        return {
            "generated": True,
            "program": f"diffusion_fw {program}",
            "version": __version__,
            "checkpoint_sha256": checkpoint_hash(self.config["checkpoint"]),
            "config_sha256": config_hash(self.config),
            "weights": self.choice.name,
            "seed": self.config["seed"],
        }

    def at_work(self, folder: Path) -> ModelAtWork:
        """The model as a mode of sample.py uses it, which draws into ``folder``."""
        record = None
        view = view_for(self.space.shape, self.space.bounds)
        if self.config["provenance"]:
            record = {**self.provenance("sample.py"), "mode": self.config["mode"]["name"]}
            view = Stamped(view, record)
        names = self.facts.class_names if len(self.facts.class_names) == self.num_classes else ()
        return ModelAtWork(
            denoiser=self.denoiser,
            sampler=self.sampler,
            shape=self.facts.shape,
            space=self.space,
            class_names=names or tuple(map(str, range(self.num_classes))),
            chosen=self.chosen,
            null_class=self.record["config"].get("label_dropout", 0) > 0,
            class_of=self.class_of,
            asking=self.asking,
            conditioner=self.conditioner,
            load_data=lambda: self.data,
            load_features=lambda: build_features(self.complete, self.data),
            view=view,
            num_samples=self.config["num_samples"],
            batch_size=self.batch_size,
            seed=self.config["seed"],
            device=self.device,
            folder=folder,
            record=record,
        )

    def draw(self, count: int) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Chunks of (indices, examples in the data's own form); sample i depends only on the seed and on i."""
        for chunk, x in draw(
            self.sampler,
            self.denoiser,
            self.facts.shape,
            range(count),
            seed=self.config["seed"],
            cond_of=self.cond_of,
            batch_size=self.batch_size,
            device=self.device,
        ):
            yield chunk, self.space.examples(x)


def uncompiled() -> Any:
    """A block in which compiled networks run as they are: for few evaluations, or under another dispatch mode."""
    return torch.compiler.set_stance("force_eager")


@dataclass(frozen=True)
class Place:
    """Where and how networks are evaluated."""

    device: torch.device
    precision: torch.dtype | None
    compiled: bool | str

    def take(self, denoiser: NetworkDenoiser) -> NetworkDenoiser:
        """The denoiser there, changed in place, in the layout that is faster there."""
        denoiser.to(device=self.device)
        denoiser.precision = self.precision
        lay_out(denoiser, self.device, compiled=bool(self.compiled))
        compile_network(denoiser, self.compiled)
        return denoiser


@within_memory()
def open_trained(config: Mapping[str, Any]) -> Trained:
    """The model of ``config["checkpoint"]``; ConfigError for a bad file and for choices that do not fit the model."""
    if Path(config["checkpoint"]).is_dir():
        # The file is what results and samples name.
        config = {**config, "checkpoint": os.fspath(checkpoint_of(config["checkpoint"], "checkpoint"))}
    # A config from before there were codecs has none.
    config = {"codec": {"name": OWN}, **config}
    network, record, choice = load_chosen(config["checkpoint"], raw_weights=config["raw_weights"], **config["ema"])
    trained_with = record["config"]
    own = with_training(config, trained_with, DRAWING)
    facts, conditional = Facts.from_record(record["facts"]), is_conditional(network)
    conditioner = build_conditions(own)
    check_same(conditioner, facts, record)
    if conditional:
        conditioner = dataclasses.replace(conditioner, num_classes=facts.num_classes)
    told = left_out(conditioner, trained_with.get("label_dropout", 0))
    check_label_dropout(own, told)
    device = choose(own["device"])
    num_classes = facts.num_classes if conditional else 0
    place = Place(device, PRECISIONS[own["precision"]], own["compile"])
    given = facts, num_classes, place, fingerprint_of(record)
    loaders = second_model(*given), second_classifier(*given)
    denoiser = build_wrappers(own, facts, conditional, told, *loaders)(place.take(network))
    classes = num_classes or getattr(denoiser, "classes", 0)
    wanted = config.get("class")
    listed = wanted if isinstance(wanted, list) else [] if wanted is None else [wanted]
    if wanted == []:
        raise ConfigError("class=[]: must have at least one class; leave it out for classes as in the training data")
    class_counts = facts.class_counts if len(facts.class_counts) == classes else (0,) * classes
    if classes and not listed and getattr(denoiser, "known", None) is not None:
        class_counts = counts_given_measurement(own, trained_with, class_counts)
    trained = Trained(
        config=own,
        record=record,
        facts=facts,
        space=space_of(own, record, facts),
        choice=choice,
        network=network,
        denoiser=denoiser,
        sampler=build_sampler(own),
        variance=build_variance(own),
        conditioner=conditioner,
        class_counts=class_counts,
        chosen=tuple(class_number(item, facts, classes) for item in listed),
        device=device,
        own_data=config["data"]["name"] == OWN,
    )
    _ = trained.asking  # what does not fit the model is refused before anything is drawn
    return trained


def counts_given_measurement(
    own: Mapping[str, Any], trained_with: Mapping[str, Any], class_counts: tuple[int, ...]
) -> tuple[int, ...]:
    """How often each class is drawn where a guidance imposes a measurement and no class is chosen: () for no labels.

    A class that is drawn without regard to the measurement contradicts it. So the model gets no label, if it knows that
    from its training and no guidance needs one.
    """
    factories = (registry.entry("guidance", section["name"]).factory for section in own["guidance"].values())
    if trained_with.get("label_dropout", 0) > 0 and not any(
        getattr(factory, "asks_without_label", False) for factory in factories
    ):
        return ()
    logger.warning(
        "the class of each sample is drawn without regard to the measurement; class=... chooses the right one, and a "
        "model trained with label_dropout needs none"
    )
    return class_counts


def space_of(config: dict[str, Any], record: dict[str, Any], facts: Facts) -> Space:
    """What a checkpoint's model works on. Of a model of latents, the codec is the one of the training.

    With codec=own its file is looked for beside the checkpoint: a checkpoint names no file that is then opened. Raises
    ConfigError where there is none, and for another codec.
    """
    checkpoint, stated = config["checkpoint"], record.get("codec")
    given = config["codec"]
    if stated is None:
        if given["name"] != NO_CODEC["name"]:
            raise ConfigError(f"codec={given['name']}: checkpoint={checkpoint} is no model of latents; leave it out")
        return Space(build_codec(config), facts.shape, facts.pixels, facts.data_range)
    if given["name"] == NO_CODEC["name"]:
        raise ConfigError(f"codec=none: checkpoint={checkpoint} is a model of latents; leave it out")
    if "path" in registry.entry("codec", given["name"]).parameters and given.get("path") is None:
        place = Path(checkpoint)
        beside = (place if place.is_dir() else place.parent) / CODEC_FILE
        if not beside.is_file():
            raise ConfigError(
                f"codec={given['name']}: there is no {beside}, the codec whose latents checkpoint={checkpoint} was "
                "trained on; put it there, or give codec.path=..."
            )
        config["codec"] = {**given, "path": os.fspath(beside)}
    if not isinstance(stated, Mapping):
        raise ConfigError(f"checkpoint={checkpoint}: what it says about its codec is damaged")
    space = Space.recorded(build_codec(config), stated, f"checkpoint={checkpoint}")
    if space.codec.latent_shape(space.shape) != facts.shape:
        raise ConfigError(
            f"checkpoint={checkpoint}: its model works on {facts.shape}, but the latents of its codec are "
            f"{space.codec.latent_shape(space.shape)}"
        )
    return space


def load_space(checkpoint: str | os.PathLike[str], codec: str | None = None) -> Space:
    """What the model of a checkpoint works on: ``space.examples(x)`` are the examples of what it makes.

    ``codec`` is the file of its codec, where that is not beside the checkpoint. Raises ConfigError where there is none,
    and for another codec than that of the training.
    """
    checkpoint = checkpoint_of(checkpoint, "checkpoint")
    record = read(checkpoint)[RECORD_KEY]
    changes = {} if codec is None else {"path": codec}
    given = with_training({"codec": {"name": OWN, **changes}}, record["config"], ("codec",))
    return space_of({"checkpoint": os.fspath(checkpoint), **given}, record, Facts.from_record(record["facts"]))


def class_number(given: int | str, facts: Facts, classes: int) -> int:
    """A class that is given by its number or its name; ConfigError where the model has none, or not this one."""
    if not classes:
        raise ConfigError(
            f"class={given}: the model takes no classes; one that does is trained with network.class_conditional=true, "
            "and guidance=classifier gives classes to one that does not"
        )
    names = facts.class_names if len(facts.class_names) == classes else tuple(map(str, range(classes)))
    if isinstance(given, int) and given < classes:
        return given
    if given in names:
        return names.index(str(given))
    listed = ", ".join(names[:MOST_LISTED]) + (", ..." if classes > MOST_LISTED else "")
    raise ConfigError(f"class={given}: the model has the classes 0 to {classes - 1}, called {listed}")


def check_same(conditioner: Conditioner, facts: Facts, record: Mapping[str, Any]) -> None:
    """ConfigError for conditions that are not those that the model was trained with."""
    trained = {name: (kind, size) for kind in TOLD for name, size in getattr(facts, kind).items()}
    if conditioner.sources.keys() != trained.keys():
        raise ConfigError(
            f"condition={list(conditioner.sources)}: the model was trained with {list(trained) or 'none'}; leave "
            "condition out, or change keys of the model's own"
        )
    for name, source in conditioner.sources.items():
        encoder = getattr(source, "encoder", None)
        if encoder is not None and (encoder.length, encoder.size) != tuple(trained[name][1]):
            length, size = trained[name][1]
            raise ConfigError(
                f"text_encoder=... gives {encoder.length} embeddings of {encoder.size} numbers, but the model was "
                f"trained with {length} of {size}; leave text_encoder out"
            )
    # A checkpoint of before does not say it.
    expected = record.get("text_encoder")
    if expected is not None and conditioner.encoder_fingerprint != expected:
        raise ConfigError(
            "text_encoder=...: this is not the encoder of the training, whose weights or settings were others; leave "
            "it out, or give text_encoder.folder=FOLDER with the files of that one"
        )


def _kind(shape: tuple[int, ...], pixels: bool) -> str:
    return f"{'images of 8-bit pixels' if pixels else 'floats'} of shape {shape}"


def fingerprint_of(record: Mapping[str, Any]) -> str | None:
    """That of the codec of a checkpoint's model; None for a model that works on the examples themselves."""
    stated = record.get("codec")
    return str(stated.get("fingerprint")) if isinstance(stated, Mapping) else None


def second_model(facts: Facts, num_classes: int, place: Place, codec: str | None = None) -> Callable[..., Denoiser]:
    """The function by which a guidance loads a second model: ``load(checkpoint, raw_weights=, ema_rate=, ema_std=)``.

    It raises ConfigError for a model of other data: of another shape, or of other classes. The second model may be
    unconditional.
    """

    def load(checkpoint: str, *, raw_weights: bool, ema_rate: float | None, ema_std: float | None) -> Denoiser:
        network, record, _ = load_chosen(checkpoint, raw_weights=raw_weights, rate=ema_rate, std=ema_std)
        other = _facts_of(record, facts, checkpoint, codec)
        if is_conditional(network) and other.num_classes != num_classes:
            raise ConfigError(
                f"checkpoint={checkpoint} takes labels of {other.num_classes} classes, "
                f"the guided model of {num_classes}"
            )
        return place.take(network)

    return load


def second_classifier(
    facts: Facts, num_classes: int, place: Place, codec: str | None = None
) -> Callable[..., NetworkClassifier]:
    """The function by which a guidance loads a classifier, called as that of ``second_model``.

    It raises ConfigError for one of data of another shape, or of other classes than those that the model takes, if any.
    """

    def load(checkpoint: str, *, raw_weights: bool, ema_rate: float | None, ema_std: float | None) -> NetworkClassifier:
        classifier, record, _ = load_chosen_classifier(checkpoint, raw_weights=raw_weights, rate=ema_rate, std=ema_std)
        _facts_of(record, facts, checkpoint, codec)
        if num_classes not in (0, classifier.num_classes):
            raise ConfigError(
                f"checkpoint={checkpoint} tells {classifier.num_classes} classes apart, "
                f"the guided model takes labels of {num_classes}"
            )
        classifier.to(place.device)
        return classifier

    return load


def _facts_of(record: dict[str, Any], facts: Facts, checkpoint: str, codec: str | None) -> Facts:
    """The facts of a second checkpoint's data; ConfigError if they are of another shape, or codec, than the model's."""
    other = Facts.from_record(record["facts"])
    if (theirs := fingerprint_of(record)) != codec:
        kinds = [
            f"latents of the codec {each[:100]}" if each else "examples, without a codec" for each in (theirs, codec)
        ]
        raise ConfigError(
            f"checkpoint={checkpoint} works on {kinds[0]}, the guided model on {kinds[1]}; train both with one codec"
        )
    if other.shape != facts.shape:
        raise ConfigError(
            f"checkpoint={checkpoint} is of data of shape {other.shape}, the guided model of {facts.shape}"
        )
    return other
