"""A published model as a denoiser and as a checkpoint of this framework."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.checkpoints.read import MAX_NAME
from diffusion_fw.checkpoints.size_limit import limit_model_size
from diffusion_fw.composition.experiment import checkpoint_record
from diffusion_fw.composition.facts import Facts
from diffusion_fw.composition.parts import build_data, build_model, check_size
from diffusion_fw.denoiser import NetworkAutoencoder, NetworkClassifier, NetworkDenoiser
from diffusion_fw.interop.formats import formats
from diffusion_fw.interop.formats.format import Format, Published
from diffusion_fw.interop.latents import are_images
from diffusion_fw.interop.pairs import to_ours
from diffusion_fw.interop.source import Source
from diffusion_fw.networks.network import is_class_conditional
from diffusion_fw.registry import ConfigError, Fraction, PositiveInt, Range
from diffusion_fw.training.archive import RECORD_KEY
from diffusion_fw.training.durable import DurableIO

MOST_CLASSES = 1_000_000
GROUPS = ("network", "schedule", "parameterization", "variance")
SAMPLING = ("sampler", "grid")
"""Groups that say how samples are drawn, which the checkpoint states for sampler=own and grid=own."""
STATED = (*GROUPS, *SAMPLING, "data")
FACTS: dict[str, Any] = {
    "shape": tuple[PositiveInt, ...],
    "num_classes": Annotated[int, Range(0, MOST_CLASSES)],
    "data_range": tuple[float, float],
    "pixels": bool,
    "label_dropout": Fraction,
}
"""What a user may state of the data beside the groups, and its type."""


@dataclass(frozen=True)
class Imported:
    """A published model, built."""

    source: str
    format: Format
    published: Published
    config: dict[str, Any]
    facts: Facts
    denoiser: NetworkDenoiser | NetworkClassifier

    @property
    def content(self) -> dict[str, Any]:
        """A checkpoint with these weights, before the first step of any training here."""
        weights = {f"denoiser.{key}": value for key, value in self.denoiser.state_dict().items()}
        record = {**checkpoint_record(self.config, self.facts), "averages": {}, "imported_from": self.source}
        return {"state_dict": weights, "global_step": 0, RECORD_KEY: record}

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        DurableIO().save_checkpoint(self.content, path)


def parse(words: Sequence[str]) -> dict[str, Any]:
    """``network.num_heads=4 schedule=cosine shape=[3,64,64]`` by key; ConfigError for what is not key=value."""
    given: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        group, _, parameter = key.partition(".")
        known = group in STATED or key in FACTS
        if not equals or not known or (key == "network"):
            allowed = ", ".join((*(f"{name}.KEY=VALUE" for name in STATED), *(f"{key}=..." for key in FACTS)))
            raise ConfigError(f"{word}: allowed are {allowed}, and schedule=NAME and the like, but not network=NAME")
        if parameter or key in FACTS:
            try:
                given[key] = OmegaConf.to_object(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index, call-overload]
            except (OmegaConfBaseException, ValueError) as error:
                raise ConfigError(f"{word}: {str(error).splitlines()[0]}") from None
        else:
            given[key] = text
    return given


def import_published(source: Source, given: Mapping[str, Any], *, name: str | None = None) -> Imported:
    """The model of a source in this framework, with what the user stated laid over what was recognised.

    Raises ConfigError where no format, or more than one, knows the weights, where keys are missing, left over or of
    another shape, and for a component or a parameter that does not exist.
    """
    facts_given = _facts_given(given)
    if any(isinstance(part, Mapping) and RECORD_KEY in part for part in (source.content, source.settings)):
        raise ConfigError(
            f"{source.name} is a model of diffusion_fw already; give it to the programs as checkpoint={source.name}"
        )
    found, weights = _recognise(source, name)
    check_values(weights, source.name)
    try:
        published = found.describe(weights, source.settings, given)
    except ConfigError as error:
        raise ConfigError(f"{source.name} ({found.name}): {error}") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        # Formats read shapes and settings as far as they need them, and anything may be missing or of another kind.
        raise ConfigError(
            f"{source.name} ({found.name}): its weights or settings do not describe a network: "
            f"{type(error).__name__}: {str(error)[:200]}"
        ) from None
    published = replace(published, **facts_given)
    if not are_images(published.shape):
        if facts_given.get("pixels"):
            raise ConfigError(
                f"pixels=true: examples of shape {published.shape} are no images; those are (1, H, W) or (3, H, W)"
            )
        published = replace(published, pixels=False)
    sections = {group: _section(group, getattr(published, group), given) for group in GROUPS}
    sections |= _sampling(found, published, source.settings, sections["schedule"], given)
    if "class_conditional" in sections["network"] and "network.class_conditional" not in given:
        sections["network"]["class_conditional"] = published.num_classes > 0
    config: dict[str, Any] = {**sections, "label_dropout": published.label_dropout, "seed": 0}
    facts = _facts(published, config, given)
    check_size(config, facts, limit_model_size(weights.values()))
    with limit_model_size(weights.values()):
        denoiser = build_model(config, facts)
    # No published format is one of autoencoders.
    assert not isinstance(denoiser, NetworkAutoencoder)
    constants = found.constants(published_of(config, facts), denoiser.network)
    useful = {key: value for key, value in weights.items() if key not in constants}
    own = to_ours(found.pairs(denoiser.network), useful, denoiser.network, f"{source.name} ({found.name})")
    own = {f"network.{key}": value for key, value in own.items()}
    denoiser.load_state_dict(own)
    return Imported(source.name, found, published, config, facts, denoiser.requires_grad_(False).eval())


def published_of(config: Mapping[str, Any], facts: Facts) -> Published:
    """A model of this framework in the terms in which a format describes one."""
    network, schedule, parameterization = (dict(config[group]) for group in GROUPS[:3])
    variance = dict(config.get("variance") or {"name": "small"})
    if parameterization.get("sigma_data") == "auto":
        parameterization["sigma_data"] = facts.data_std
    return Published(
        network, facts.shape, facts.num_classes, schedule, parameterization, variance, data_range=facts.data_range
    )


def _recognise(source: Source, name: str | None) -> tuple[Format, Mapping[str, Tensor]]:
    known = formats()
    if name is not None and name not in known:
        raise ConfigError(f"--format {name}: allowed are {', '.join(known)}")
    held = {key: item.weights(source.content) for key, item in known.items() if name in (None, key)}
    weights = {key: value for key, value in held.items() if value}
    if not weights:
        raise ConfigError(f"{source.name} holds no state dict: names and tensors, alone or under a key such as 'model'")
    if name is not None:
        return known[name], weights[name]
    fitting = [key for key, value in weights.items() if known[key].recognises(value, source.settings)]
    if len(fitting) != 1:
        first = ", ".join(list(next(iter(weights.values())))[:6])
        what = f"of several formats ({', '.join(fitting)})" if fitting else "of no known format"
        raise ConfigError(
            f"{source.name} is {what}; its first keys are {first}. Name one with --format: {', '.join(known)}"
        )
    return known[fitting[0]], weights[fitting[0]]


def _facts_given(given: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that the user stated, in their types; ConfigError for those of another type or range."""
    found: dict[str, Any] = {}
    for key in FACTS.keys() & given.keys():
        try:
            found[key] = registry.convert(FACTS[key], given[key])
        except ValueError:
            raise ConfigError(f"{key}={given[key]!r}: must be {registry.describe(FACTS[key])}") from None
    if "data_range" in found and not found["data_range"][0] < found["data_range"][1]:
        raise ConfigError(f"data_range={given['data_range']}: the first number must be less than the second")
    if "shape" in found and not found["shape"]:
        raise ConfigError("shape=[]: must have at least one number, such as shape=[3,32,32]")
    if "data" not in given and (keys := [key for key in given if key.startswith("data.")]):
        raise ConfigError(f"{keys[0]} belongs to a data set; name it too, as data=NAME")
    return found


def check_values(weights: Mapping[str, Tensor], source: str) -> None:
    """Raise ConfigError for entries that are not plain, finite floating-point numbers, or whose names are not text."""
    for key, value in weights.items():
        if not (key.isprintable() and len(key) <= MAX_NAME):
            raise ConfigError(f"{source}: the name of a weight is not printable, or longer than {MAX_NAME} characters")
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            kind = "a quantized" if value.is_quantized else "no" if value.is_meta else f"a {value.layout}"
            raise ConfigError(f"{source}: {key} has {kind} array of values; save dense tensors of numbers")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ConfigError(f"{source}: {key} of shape {tuple(value.shape)} claims more values than the file holds")
        if not value.is_floating_point():
            raise ConfigError(
                f"{source}: {key} is of type {str(value.dtype).removeprefix('torch.')}; weights are floating-point "
                "numbers: float16, bfloat16, float32 or float64"
            )
        if not bool(value.float().isfinite().all()):
            raise ConfigError(f"{source}: {key} holds values that are not finite in float32")


def _section(group: str, recognised: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The whole section: the recognised values, those of the user, and the defaults of the rest."""
    # A format may know what the weights mean with the component that was stated.
    section = (
        dict(recognised)
        if given.get(group, recognised.get("name")) == recognised.get("name")
        else {"name": given[group]}
    )
    section |= {key.partition(".")[2]: value for key, value in given.items() if key.startswith(f"{group}.")}
    entry = registry.entry(group, section.pop("name"))
    values = registry.validate(group, entry.name, section)
    defaults = {key: item.default for key, item in entry.parameters.items() if not item.required}
    return {"name": entry.name, **defaults, **{key: value for key, value in values.items() if key in entry.parameters}}


def _sampling(
    found: Format,
    published: Published,
    settings: Mapping[str, Any],
    schedule: Mapping[str, Any],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """How samples are drawn: as the authors do, in at most as many steps as a table has rows, or as the user stated."""
    sampler = dict(found.sampler_of(replace(published, schedule=dict(schedule)), settings))
    if "steps" in sampler:
        sampler["steps"] = min(sampler["steps"], schedule.get("num_steps", sampler["steps"]))
    # Values of latents have no bounds.
    wrappers = found.guidance if published.pixels else ()
    return {
        "sampler": _section("sampler", sampler, given),
        "grid": _section("grid", found.grid, given),
        "guidance": {name: _section("guidance", {"name": name}, {}) for name in wrappers},
    }


def _facts(published: Published, config: dict[str, Any], given: Mapping[str, Any]) -> Facts:
    """Those of the data that the user names, whose section is added to ``config``, or what the weights say."""
    if "data" not in given:
        names = tuple(str(index) for index in range(published.num_classes))
        record = {
            "shape": list(published.shape),
            "num_classes": published.num_classes,
            "class_names": list(names),
            "data_range": list(published.data_range),
            "pixels": published.pixels,
        }
        try:
            return Facts.from_record(record)
        except ConfigError as error:
            raise ConfigError(f"shape={list(published.shape)}: {error}") from None
    config["data"] = _section("data", {}, given)
    config["features"] = {"name": "auto"}
    data = build_data(config)
    if data.shape != published.shape:
        raise ConfigError(f"data={given['data']} has examples of shape {data.shape}, the weights of {published.shape}")
    if published.num_classes and data.num_classes != published.num_classes:
        raise ConfigError(f"data={given['data']} has {data.num_classes} classes, the weights {published.num_classes}")
    return Facts.of(data, config)


@dataclass(frozen=True)
class Fingerprint:
    """One output of a network, for comparison with the same call of its original.

    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)), the time label, and class 0 if it has any.
    """

    label: float
    total: float
    size: float
    """The root mean square."""
    first: tuple[float, ...]
    digest: str
    """Of the values rounded to three decimals."""

    def __str__(self) -> str:
        first = ", ".join(f"{value:.5f}" for value in self.first)
        return (
            f"at label {self.label:g}: sum {self.total:.5g}, root mean square {self.size:.6g}, "
            f"first values {first}, hash {self.digest}"
        )


@torch.no_grad()
def fingerprint(denoiser: NetworkDenoiser | NetworkClassifier, shape: Sequence[int], label: float) -> Fingerprint:
    """The fingerprint of a denoiser's network at a time label."""
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    cond = torch.zeros(1, dtype=torch.int64) if is_class_conditional(denoiser.network) else None
    output = denoiser.network(x, torch.full((1,), label), cond).double().flatten()
    digest = hashlib.sha256((1000 * output).round().long().numpy().tobytes()).hexdigest()[:12]
    return Fingerprint(
        label, output.sum().item(), output.square().mean().sqrt().item(), tuple(output[:4].tolist()), digest
    )


def middle_label(denoiser: NetworkDenoiser | NetworkClassifier) -> float:
    """The label at the middle of time, a whole number where the labels of its rows are."""
    level = denoiser.schedule(denoiser.schedule.snap(torch.tensor([0.5], dtype=torch.float64)))
    return float(denoiser.parameterization.input(level)[1])


def describe(imported: Imported) -> dict[str, str]:
    """The rows of a printed table."""
    config, facts = imported.config, imported.facts
    count = sum(value.numel() for value in imported.denoiser.network.parameters())
    rows = {
        "format": imported.format.name,
        **{group: _text(config[group]) for group in (*GROUPS, *SAMPLING)},
        "parameters": f"{count:,}",
        "examples": f"{facts.shape}" + (f", {facts.num_classes} classes" if facts.num_classes else ""),
    }
    if imported.published.guessed:
        rows["not in the weights"] = (
            f"{', '.join(imported.published.guessed)}: taken from the paper, to be stated if other"
        )
    label = middle_label(imported.denoiser)
    rows["fingerprint"] = str(fingerprint(imported.denoiser, facts.shape, label))
    return rows


def _text(section: Mapping[str, Any]) -> str:
    return ", ".join([section["name"], *(f"{key}={value}" for key, value in section.items() if key != "name")])
