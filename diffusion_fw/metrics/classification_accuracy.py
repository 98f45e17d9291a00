"""What a classifier learns from samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from diffusion_fw.data.dataset import to_model
from diffusion_fw.metrics.comparison import Beside, Interval, Measure, Numbers, SampleMetric, student, wilson
from diffusion_fw.metrics.metric import Subject
from diffusion_fw.metrics.sample_set import Part, SampleSet
from diffusion_fw.registry import ConfigError, PositiveInt, register

BATCH, RATE = 64, 1e-2
AT_ONCE = 1000


@register("metric", "classification_accuracy")
@dataclass(frozen=True)
class ClassificationAccuracy(SampleMetric):
    """The accuracy on real examples of a classifier that was trained on samples of known classes (CAS).

    Ravuri & Vinyals 2019. The floor is that of the classifier trained on as many real examples, so a lower value shows
    what the samples of a class lack. The classifier is small and always the same one: three 3x3 convolutions for
    images, two hidden layers for points, ``steps`` steps of Adam, no weights from elsewhere. The mean of ``seeds``
    trainings; the interval comes from their spread and from the number of real examples, not from a jackknife. Raises
    ConfigError for a model or data without classes.
    """

    numbers: ClassVar[dict[str, Literal["lower", "higher"]]] = {"classification_accuracy": "higher"}
    takes: ClassVar[frozenset[Part]] = frozenset({"examples", "labels"})

    seeds: PositiveInt = 3
    steps: PositiveInt = 100

    def against(self, real: SampleSet, device: torch.device) -> Measure:
        if real.labels is None:
            raise ConfigError(
                "metric=classification_accuracy needs data with classes, but data=... has none; choose metric=fid"
            )
        classes = 1 + int(real.labels.max())

        def measure(generated: SampleSet) -> Numbers:
            if generated.labels is None:
                raise ConfigError(
                    "metric=classification_accuracy needs samples of given classes, but the model takes no labels; "
                    "choose metric=fid, or train with network.class_conditional=true"
                )
            size = max(classes, 1 + int(generated.labels.max()))
            networks = (trained(generated, size, self.steps, seed, device) for seed in range(self.seeds))
            found = [float(hits(network, real, device).mean()) for network in networks]
            deviation = float(torch.tensor(found, dtype=torch.float64).std()) if self.seeds > 1 else 0.0
            return {"classification_accuracy": sum(found) / self.seeds, "deviation_between_seeds": deviation}

        return measure

    def intervals(
        self, measure: Measure, generated: SampleSet, values: Numbers, device: torch.device
    ) -> dict[str, Interval]:
        """Wilson's for the number of real examples, widened by the deviation of the mean over the seeds."""
        value = values["classification_accuracy"]
        low, high = wilson(value * self._tested, self._tested)
        spread = 0.0
        if self.seeds > 1:
            spread = student(self.seeds - 1) * values["deviation_between_seeds"] / math.sqrt(self.seeds)
        below, above = math.hypot(value - low, spread), math.hypot(high - value, spread)
        return {"classification_accuracy": (max(0.0, value - below), min(1.0, value + above))}

    @property
    def _tested(self) -> int:
        return len(self.examples("train" if self.reference == "train" else "test"))

    def beside(self, measure: Measure, generated: SampleSet, values: Numbers, subject: Subject) -> Beside:
        return Beside({"tested_on": self._tested, "seeds": self.seeds, "steps": self.steps})


def trained(on: SampleSet, classes: int, steps: int, seed: int, device: torch.device) -> nn.Module:
    """The classifier after ``steps`` steps on examples and their labels."""
    assert on.examples is not None
    assert on.labels is not None
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.default_generator.manual_seed(seed)
        network = classifier(tuple(on.examples.shape[1:]), classes)
    network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    with torch.inference_mode(False), torch.enable_grad():
        for rows in batches(len(on), steps, seed):
            x = to_model(on.examples[rows]).to(device)
            loss = cross_entropy(network(x), on.labels[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def hits(network: nn.Module, on: SampleSet, device: torch.device) -> Tensor:
    """Whether the classifier tells the class of each example: float64 (N,)."""
    assert on.examples is not None
    assert on.labels is not None
    guesses = [network(to_model(part).to(device)).argmax(1).cpu() for part in on.examples.split(AT_ONCE)]
    return (torch.cat(guesses) == on.labels).double()


def classifier(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A network from examples as the model sees them to logits."""
    if len(shape) == 3:
        channels, height, _ = shape
        halved = [2 if height >= side else 1 for side in (8, 16)]
        return nn.Sequential(
            *(nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1, stride=halved[0]), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1, stride=halved[1]), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * 64, classes)),
        )
    size = math.prod(shape)
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(size, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, classes))
    )


def batches(count: int, steps: int, seed: int) -> Iterator[Tensor]:
    """The rows of each step: all examples in a random order, again and again."""
    random = torch.Generator().manual_seed(seed)
    size, rows = min(BATCH, count), torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(rows) < size:
            rows = torch.cat([rows, torch.randperm(count, generator=random)])
        yield rows[:size]
        rows = rows[size:]
