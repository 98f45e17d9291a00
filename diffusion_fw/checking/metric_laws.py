"""What every metric promises: a repeatable number, and for a tracked one also a distance with a floor."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.checking.findings import Row, at_least, at_most, verdict
from diffusion_fw.checking.subject import Check, Subject
from diffusion_fw.data.dataset import Data, InMemory, from_model
from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.metrics.metric import Measurement, Metric, TrackedMetric, Training
from diffusion_fw.metrics.metric import Subject as Model
from diffusion_fw.oracles import Gaussian
from diffusion_fw.registry import ConfigError

COUNT = 64
"""Training examples, held-out examples and samples."""
STD = 0.3
TOLERANCE = 1e-6
"""The relative difference that rounding may make."""


class Points(Data):
    """Points from N(0, 0.3^2 I)."""

    default_features = "identity"
    value_range = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (2,)

    def load(self, split: str) -> InMemory:
        return InMemory(_normal(self.shape, seed=int(split == "test")))


class Images(Data):
    """Images whose pixels are N(0, 0.3^2), rounded."""

    default_features = "pixels"

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, 8, 8)

    def load(self, split: str) -> InMemory:
        return InMemory(from_model(_normal(self.shape, seed=int(split == "test")), pixels=True))


class Scans(Images):
    """The same images in two classes, on the features of a classifier."""

    default_features = "digits"
    class_names = ("even", "odd")  # type: ignore[assignment]

    def load(self, split: str) -> InMemory:
        return InMemory(super().load(split).values, torch.arange(COUNT) % 2)


KINDS: tuple[type[Data], ...] = (Points, Images, Scans)


def _normal(shape: tuple[int, ...], seed: int, std: float = STD) -> Tensor:
    return std * torch.randn(COUNT, *shape, generator=torch.Generator().manual_seed(seed))


def _samples(data: Data, count: int, std: float = STD) -> Tensor:
    """Samples of a perfect model, or with another ``std`` of a wrong one, as the data hold them."""
    parts = [_normal(data.shape, seed=2 + i, std=std) for i in range(1 + count // COUNT)]
    return from_model(torch.cat(parts)[:count], data.pixels)


def _build(subject: Subject, data: Data, **overrides: Any) -> Metric:
    known = registry.entry(subject.group, subject.name).parameters
    chosen = {"num_samples": COUNT, **overrides} if "num_samples" in known else overrides
    changed = Subject(subject.group, subject.name, {**subject.parameters, **chosen})
    metric: Metric = changed.assemble(
        features=registry.build("features", data.default_features, shape=data.shape),
        train=data.train,
        reference=data.test,
        test=data.test,
        grid=registry.build("grid", "uniform"),
    )
    return metric


def _tracked(subject: Subject) -> Iterator[tuple[str, Data, TrackedMetric]]:
    """The metric on each kind of data that it takes, if it is tracked."""
    for data in (kind() for kind in KINDS):
        try:
            metric = _build(subject, data)
        except ConfigError:
            continue
        if isinstance(metric, TrackedMetric) and metric.measures:
            yield type(data).__name__.lower(), data, metric


def _value(metric: TrackedMetric, samples: Tensor, *sizes: int) -> float:
    """The value of samples that come in batches of these sizes."""
    metric.reset()
    for batch in samples.split(list(sizes)) if sizes else [samples]:
        metric.update(batch)
    return metric.compute()


def _apart(first: float, second: float) -> float:
    """The relative difference; 0 for equal values."""
    return abs(first - second) / max(abs(first), abs(second), 1e-300)


def _measure(metric: Metric, data: Data, weights: str, batch_size: int, folder: str) -> Measurement:
    """The measurement of the exact denoiser of the data, with samples of a perfect sampler."""
    samples = _samples(data, metric.num_samples)
    chunks = torch.arange(len(samples)).split(batch_size)
    return metric.evaluate(
        Model(
            denoiser=Gaussian(torch.zeros(data.shape), STD).denoiser(registry.build("schedule", "vp")),
            variance=registry.build("variance", "small"),
            data=data,
            samples=lambda: ((chunk.tolist(), samples[chunk]) for chunk in chunks),
            num_classes=data.num_classes,
            class_of=lambda indices: torch.tensor(indices) % data.num_classes if data.num_classes else None,
            weights=weights,
            device=torch.device("cpu"),
            seed=0,
            batch_size=batch_size,
            folder=Path(folder),
            training=lambda: _training(data),
        )
    )


class Zero(torch.nn.Module):
    """A network that predicts 0."""

    def forward(self, x: Tensor, label: Tensor, cond: Any = None) -> Tensor:
        return torch.zeros_like(x)


def _training(data: Data) -> Training:
    """The simple objective of a network that predicts 0."""
    schedule = registry.build("schedule", "vp")
    network = NetworkDenoiser(Zero(), schedule, registry.build("parameterization", "epsilon"), data.bounds)
    objective = registry.build("objective", "simple", weighting=registry.build("weighting", "native"))
    return Training(network, objective, registry.build("time_sampler", "uniform"), {})


def evaluation(subject: Subject) -> Iterator[Row]:
    """evaluate.py gets a finite number, the same for any batch size, under a name that states the weights.

    A metric that measures nothing has only the name.
    """
    accepted = 0
    for data in (kind() for kind in KINDS):
        where = type(data).__name__.lower()
        with tempfile.TemporaryDirectory() as folder:
            try:
                first = _measure(_build(subject, data), data, "ema", COUNT, folder)
            except ConfigError:
                continue
            accepted += 1
            metric = _build(subject, data)
            again, other = (_measure(metric, data, weights, 24, folder) for weights in ("ema", "raw"))
        if metric.measures:
            yield verdict("value", where, None if math.isfinite(first.value) else str(first.value), "finite")
            gap = _apart(first.value, again.value)
            yield at_most("value in other batches", where, gap, TOLERANCE, "apart")
        wrong = None if first.name == again.name != other.name else f"{first.name}, {again.name} and {other.name}"
        yield verdict("names with weights ema, ema and raw", where, wrong, "equal, equal and another")
        wrong = None
        try:
            json.dumps(first.record)
        except TypeError as error:
            wrong = str(error)
        yield verdict("record", where, wrong, "as JSON")
    yield at_least("kinds of data that it takes", "", accepted, 1)


def name(subject: Subject) -> Iterator[Row]:
    """The name of a tracked metric states what it depends on: the weights, num_samples, the features."""
    arguments = registry.entry(subject.group, subject.name).arguments
    for where, data, metric in _tracked(subject):
        names = [metric.name("ema"), metric.name("raw")]
        if "num_samples" in arguments:
            other = _build(subject, data, num_samples=COUNT // 2)
            names += [item.name("ema") for item in (other,) if isinstance(item, TrackedMetric)]
        wrong = None if len(set(names)) == len(names) else ", ".join(names)
        yield verdict("names with other weights and num_samples", where, wrong, "different")
        if "features" in arguments:
            wrong = None if data.default_features in names[0] else names[0]
            yield verdict("name", where, wrong, f"states the features, {data.default_features}")


def batches(subject: Subject) -> Iterator[Row]:
    """The value does not depend on how samples are split into batches, nor on what came before ``reset``."""
    for where, data, metric in _tracked(subject):
        samples, count = _samples(data, metric.num_samples), metric.num_samples
        whole = _value(metric, samples)
        batched = _value(metric, samples, 1, count // 3, count - 1 - count // 3)
        _value(metric, _samples(data, count, 3 * STD))
        for what, value in (
            ("value in three batches", batched),
            ("value after other samples and a reset", _value(metric, samples)),
        ):
            gap = _apart(whole, value)
            yield at_most(what, where, gap, TOLERANCE, "apart")


def floor(subject: Subject) -> Iterator[Row]:
    """The floor is finite, repeatable, and the value of ``floor_samples`` training examples."""
    for where, data, metric in _tracked(subject):
        found = metric.floor()
        yield verdict("floor", where, None if math.isfinite(found) else str(found), "finite")
        yield verdict("floor again", where, None if metric.floor() == found else "another", "the same")
        if metric.floor_samples == metric.num_samples == COUNT:
            gap = _apart(found, _value(metric, data.train.__getitems__(range(len(data.train)))[0]))
            yield at_most("floor and value of all training examples", where, gap, TOLERANCE, "apart")


def order(subject: Subject) -> Iterator[Row]:
    """The value is lower for a better model."""
    for where, data, metric in _tracked(subject):
        right, wrong = (_value(metric, _samples(data, metric.num_samples, std)) for std in (STD, 3 * STD))
        found = f"{right:.3g} and {wrong:.3g}"
        yield Row("values of the right and of three times the deviation", where, found, "increasing", right < wrong)


def divergence(subject: Subject) -> Iterator[Row]:
    """The value is NaN if a sample is not finite, so that a diverged run is never the best."""
    for where, data, metric in _tracked(subject):
        if not data.pixels:
            samples = _samples(data, metric.num_samples)
            samples[0] = torch.nan
            value = _value(metric, samples)
            yield verdict("value of a sample that is NaN", where, None if math.isnan(value) else f"{value:g}", "NaN")


CHECKS: tuple[Check, ...] = (evaluation, name, batches, floor, order, divergence)
