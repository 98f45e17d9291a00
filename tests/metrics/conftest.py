"""Sets of samples and the metrics that compare them, without a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.data.dataset import InMemory


class Given(dfw.Data):
    """Data of two given splits."""

    default_features = "identity"
    value_range = None

    def __init__(self, train: InMemory, test: InMemory, classes: int = 0) -> None:
        self.splits, self.classes = {"train": train, "test": test}, classes

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.splits["train"].values.shape[1:])

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.classes)))

    def load(self, split: str) -> InMemory:
        return self.splits[split]


@pytest.fixture
def given():
    """given(train, test, classes) -> data of these examples."""

    def make(train, test, classes=0):
        return Given(*(item if isinstance(item, InMemory) else InMemory(item) for item in (train, test)), classes)

    return make


@pytest.fixture
def build(tmp_path):
    """build(name, data, features=..., **settings) -> the metric on the data."""

    def make(name: str, data: dfw.Data, features: str | None = None, **settings: Any) -> Any:
        extractor = dfw.build("features", features or data.default_features, shape=data.shape)
        wanted = {"features": extractor, "train": data.originals, "test": data.test}
        return dfw.build("metric", name, **wanted, cache_dir=str(tmp_path / "cache"), **settings)

    return make


@pytest.fixture
def measured(build, tmp_path):
    """measured(name, data, samples, labels, ...) -> the measurement of the samples."""

    def measure(name, data, samples, labels=None, **settings):
        metric = build(name, data, num_samples=len(samples), **settings)
        chunks = torch.arange(len(samples)).split(100)
        subject: Any = dfw.Subject(
            denoiser=None,  # type: ignore[arg-type]
            variance=None,  # type: ignore[arg-type]
            data=data,
            samples=lambda: ((chunk.tolist(), samples[chunk]) for chunk in chunks),
            num_classes=data.num_classes,
            weights="ema",
            device=torch.device("cpu"),
            seed=0,
            batch_size=100,
            folder=tmp_path,
            class_of=lambda indices: None if labels is None else labels[indices],
        )
        return metric.evaluate(subject)

    return measure


@pytest.fixture(scope="session")
def digits():
    return dfw.build("data", "digits")
