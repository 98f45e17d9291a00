"""Where the samples of an evaluation come from: a checkpoint draws them, or files hold them."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.app.device import choose
from diffusion_fw.app.probe import PROBED, Probe, fingerprints, probe
from diffusion_fw.app.trained_model import Trained, open_trained, uncompiled
from diffusion_fw.checkpoints.read import checkpoint_hash
from diffusion_fw.composition.parts import build_data
from diffusion_fw.data.dataset import Data, Examples, from_model, usual_features
from diffusion_fw.data.formats.given_images import given_images
from diffusion_fw.denoiser import Denoiser
from diffusion_fw.metrics.collection import Collection, Rounded
from diffusion_fw.metrics.metric import Subject
from diffusion_fw.registry import OWN, ConfigError
from diffusion_fw.sampling.draw import draw
from diffusion_fw.sampling.share import rank

MODEL_KEYS = ("sampler", "grid", "guidance", "variance", "condition", "text_encoder")


class GivenData(Data):
    """Files as data of which both splits are all examples, so that a floor compares their halves."""

    value_range: ClassVar[tuple[float, float] | None] = None

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.examples.__getitems__([0])[0].shape[1:])

    @property
    def default_features(self) -> str:  # type: ignore[override]
        return usual_features(self.shape)

    def load(self, split: str) -> Examples:
        return self.examples


class Source(ABC):
    """Samples by their index, with what a metric and a result line say about them."""

    config: dict[str, Any]
    """The program's config, with the model's own parts."""
    data: Data
    device: torch.device
    batch_size: int
    weights: str
    """Which weights they are of, or "files"."""

    @abstractmethod
    def draw(self, indices: Sequence[int]) -> tuple[Rounded, Tensor | None]:
        """The samples with these indices, and their classes if they have some."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that the samples depend on, as values of JSON."""

    @abstractmethod
    def probe(self) -> dict[str, Any]:
        """What a result line says about how the first samples were made, and their fingerprints."""

    @property
    @abstractmethod
    def data_section(self) -> dict[str, Any]:
        """The section of the config that the reference comes from."""

    def sized(self, section: Mapping[str, Any]) -> Mapping[str, Any]:
        """A metric's section with the number of samples that there are."""
        return section

    @abstractmethod
    def check(self, count: int) -> None:
        """ConfigError where ``count`` samples cannot be had; says what they take."""

    @abstractmethod
    def record(self, metric: str) -> dict[str, Any]:
        """What evaluation.json says about the samples of a metric, besides the metric's own entries."""

    @abstractmethod
    def rows(self, of_samples: bool) -> dict[str, str]:
        """The rows of the printed table about the model and, with ``of_samples``, its samples."""

    @property
    def latents(self) -> Data:
        """The data as the model sees them."""
        return self.data

    def pictures(self, folder: Path) -> list[Path]:
        """Pictures of the model itself."""
        return []

    @abstractmethod
    def subject(self, collection: Collection | None, count: int, folder: Path) -> Subject:
        """The samples as a metric takes them."""


@dataclass
class Drawn(Source):
    """Samples of a checkpoint."""

    model: Trained
    reference: Data | None

    def __post_init__(self) -> None:
        model = self.model
        self.config = model.complete
        self.data = self.reference or model.data
        if self.data.shape != model.space.shape:
            raise ConfigError(
                f"reference={model.config['reference']} holds examples of shape {self.data.shape}, but the model draws "
                f"{model.space.shape}"
            )
        if model.num_classes == self.data.num_classes:
            # A checkpoint of version 0.1.0 does not say how often each class occurs.
            counts = model.facts.class_counts or self.data.class_counts
            self.model = model = dataclasses.replace(model, class_counts=counts)
        self.device, self.batch_size, self.weights = model.device, model.batch_size, model.choice.name

    def draw(self, indices: Sequence[int]) -> tuple[Rounded, Tensor | None]:
        model = self.model
        (_, x), *_ = draw(
            model.sampler,
            model.denoiser,
            model.facts.shape,
            indices,
            seed=model.config["seed"],
            cond_of=model.cond_of,
            batch_size=len(indices),
            device=self.device,
        )
        x = model.space.decode(x)
        return lambda quantise: quantise(x) if quantise else from_model(x, model.space.pixels), model.class_of(indices)

    @functools.cached_property
    def checkpoint(self) -> dict[str, str]:
        """The path of the checkpoint and the hash of its content."""
        given = self.model.config["checkpoint"]
        return {"path": given, "sha256": checkpoint_hash(given)}

    @property
    def identity(self) -> dict[str, Any]:
        config, codec = self.model.config, self.model.space.codec
        return {
            "checkpoint": self.checkpoint,
            **{key: config[key] for key in MODEL_KEYS},
            **({} if codec.identity else {"codec": codec.fingerprint()}),
            **self.model.choice.record,
            "precision": config["precision"],
            "seed": config["seed"],
            "classes": self.model.class_counts,
        }

    def probe(self) -> dict[str, Any]:
        model = self.model
        with uncompiled():
            found: Probe = probe(
                model.sampler,
                model.denoiser,
                model.network,
                model.facts.shape,
                model.cond_of,
                model.space.examples,
                seed=model.config["seed"],
                device=model.device,
            )
        return found.record()

    @property
    def data_section(self) -> dict[str, Any]:
        if self.reference is not None:
            return {"name": "files", "path": self.model.config["reference"]}
        return dict(self.config["data"])

    def check(self, count: int) -> None:
        self.model.check_sampler()
        if rank() == 0:
            print(f"memory, estimated: {self.model.memory(count)}")

    def record(self, metric: str) -> dict[str, Any]:
        config = self.config
        of_samples = getattr(registry.entry("metric", metric).factory, "of_samples", True)
        return {
            **({"sampler": config["sampler"]} if of_samples else {}),
            **{group: config[group] for group in ("grid", "guidance", "variance")},
            **({"condition": config["condition"]} if config["condition"] else {}),
            **({} if self.model.own_data and self.reference is None else {"data": self.data_section}),
            "checkpoint": config["checkpoint"],
            **self.model.choice.record,
            "precision": config["precision"],
            "seed": config["seed"],
        }

    def rows(self, of_samples: bool) -> dict[str, str]:
        config, sampler = self.config, self.model.sampler
        how = {"sampler": config["sampler"]["name"], "sampler steps": str(sampler.steps)} if of_samples else {}
        guidance = ", ".join(config["guidance"]) or "none"
        return {**how, "guidance": guidance, "variance": config["variance"]["name"], **self.model.choice.rows}

    @functools.cached_property
    def latents(self) -> Data:
        return self.model.latents if self.reference is None else self.model.seen(self.data)

    def pictures(self, folder: Path) -> list[Path]:
        return self.model.choice.pictures(folder)

    def subject(self, collection: Collection | None, count: int, folder: Path) -> Subject:
        model = self.model
        return Subject(
            denoiser=model.denoiser,
            variance=model.variance,
            data=self.data,
            samples=lambda: model.draw(count),
            num_classes=model.num_classes,
            class_of=model.class_of,
            conditioner=model.conditioner,
            training=lambda: model.training,
            weights=self.weights,
            device=self.device,
            seed=model.config["seed"],
            batch_size=model.batch_size,
            folder=folder,
            collect=collection,
        )


@dataclass
class Given(Source):
    """Samples that files hold, in the order of the files."""

    config: dict[str, Any]
    data: Data
    samples: Examples

    def __post_init__(self) -> None:
        self.device, self.weights = choose(self.config["device"]), "files"
        size = self.config["batch_size"]
        self.batch_size = 256 if size == "auto" else size
        shape = tuple(self.samples.__getitems__([0])[0].shape[1:])
        if shape != self.data.shape:
            raise ConfigError(
                f"samples={self.config['samples']} holds examples of shape {shape}, but the reference is of "
                f"{self.data.shape}; both must be alike"
            )

    def draw(self, indices: Sequence[int]) -> tuple[Rounded, Tensor | None]:
        values, labels = self.samples.__getitems__(indices)
        # They are rounded already, whatever a protocol says.
        return lambda quantise: values, labels

    @property
    def identity(self) -> dict[str, Any]:
        return {"samples": {"path": self.config["samples"], "fingerprint": self.samples.fingerprint()}}

    def probe(self) -> dict[str, Any]:
        first, _ = self.samples.__getitems__(range(min(PROBED, len(self.samples))))
        unknown = {"evaluations": None, "flops_per_sample": None, "guidance_applied": None}
        return {**unknown, "first_samples": fingerprints(first)}

    @property
    def data_section(self) -> dict[str, Any]:
        given = self.config["reference"]
        return dict(self.config["data"]) if given is None else {"name": "files", "path": given}

    def sized(self, section: Mapping[str, Any]) -> Mapping[str, Any]:
        """All samples, unless the metric's number of samples is another than its default."""
        known = registry.entry("metric", section["name"]).parameters
        count = len(self.samples)
        if "num_samples" not in known or section["num_samples"] != known["num_samples"].default:
            return section
        return {**section, "num_samples": count}

    def check(self, count: int) -> None:
        if count > len(self.samples):
            raise ConfigError(
                f"metric.num_samples={count}: samples={self.config['samples']} holds {len(self.samples)} examples; "
                "leave it out to measure all of them"
            )

    def record(self, metric: str) -> dict[str, Any]:
        return {"samples": self.config["samples"], "reference": self.data_section, "seed": self.config["seed"]}

    def rows(self, of_samples: bool) -> dict[str, str]:
        reference = self.config["reference"] or f"data={self.config['data']['name']}"
        return {"samples": f"{len(self.samples):,} of {self.config['samples']}", "reference": reference}

    def subject(self, collection: Collection | None, count: int, folder: Path) -> Subject:
        return Subject(
            # A comparison of samples asks for no model.
            denoiser=cast(Denoiser, None),
            variance=cast(Any, None),
            data=self.data,
            samples=lambda: iter(()),
            num_classes=self.data.num_classes,
            weights=self.weights,
            device=self.device,
            seed=self.config["seed"],
            batch_size=self.batch_size,
            folder=folder,
            collect=collection,
        )


def check_source(config: Mapping[str, Any]) -> None:
    """ConfigError unless a config names either a checkpoint, or samples and what to compare them with."""
    checkpoint, samples = config["checkpoint"], config["samples"]
    if (checkpoint is None) == (samples is None):
        raise ConfigError(
            "give checkpoint=FILE to measure a model, or samples=PATH reference=PATH to measure images that are there "
            "already; " + ("both are given" if checkpoint else "neither is given")
        )
    if samples and config["reference"] is None and config["data"]["name"] == OWN:
        raise ConfigError(f"samples={samples}: compared with what? give reference=PATH or data=NAME")
    if config["reference"] is not None and config["data"]["name"] != OWN:
        raise ConfigError(
            f"reference={config['reference']} and data={config['data']['name']} are both given; leave out one"
        )


def open_source(config: Mapping[str, Any]) -> Source:
    """The samples that a config asks for. Raises ConfigError for what ``check_source`` refuses, and for bad files."""
    check_source(config)
    # A result line from before there were codecs names none.
    config = {"codec": {"name": OWN}, **config}
    samples, reference = config["samples"], config["reference"]
    known = None if reference is None else GivenData(given_images(reference, "reference"))
    if samples is None:
        return Drawn(open_trained(config), known)
    chosen = {"data": config["data"], **{key: config[key] for key in (*MODEL_KEYS, "codec")}}
    for group in (*MODEL_KEYS, "codec"):
        section = chosen[group]
        if section not in ({"name": OWN}, {OWN: {"name": OWN}}):
            raise ConfigError(
                f"{group}=... is of a model, but samples={samples} are measured as they are; leave it out"
            )
    features = {"name": "auto"} if config["features"]["name"] == OWN else config["features"]
    complete = {**config, "features": features}
    for group in (*MODEL_KEYS, "codec", *(["data"] if known else [])):
        del complete[group]
    return Given(complete, known or build_data(config), given_images(samples, "samples"))
