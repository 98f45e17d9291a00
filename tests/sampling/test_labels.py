"""The classes of drawn samples are as frequent as in the training data, so that a perfect model reaches its floor."""

from __future__ import annotations

import math

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.data.dataset import from_model
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.sampling.draw import draw, sample_labels

COUNTS = [(95, 5), (300, 200, 163, 154, 90, 258, 1, 0, 40, 7), tuple(range(1, 60)), (1,) * 7, (13,)]


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("seed", range(3))
def test_as_many_samples_as_examples_have_the_classes_of_the_examples(counts, seed):
    labels = sample_labels(counts, 2 * sum(counts), seed)
    for part in labels.chunk(2):
        assert part.bincount(minlength=len(counts)).tolist() == list(counts)


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("seed", range(3))
def test_any_number_of_samples_has_the_classes_in_proportion(counts, seed):
    total = sum(counts)
    labels = sample_labels(counts, total, seed)
    drawn = torch.nn.functional.one_hot(labels, len(counts)).cumsum(0)
    quota = torch.arange(1, total + 1).unsqueeze(1) * torch.tensor(counts) / total
    assert (drawn - quota).abs().max() < 2


def test_classes_of_equal_counts_take_turns():
    labels = sample_labels([500] * 10, 70, seed=0)
    assert labels[:10].sort().values.tolist() == list(range(10))
    assert torch.equal(labels, labels[:10].repeat(7))


def test_a_class_does_not_depend_on_how_many_samples_are_drawn():
    labels = sample_labels((300, 200, 7, 0, 1), 508, seed=3)
    for count in (1, 2, 50, 333):
        assert torch.equal(sample_labels((300, 200, 7, 0, 1), count, seed=3), labels[:count])


def test_with_fewer_samples_than_classes_each_class_has_its_chance():
    # The 100 classes of two examples are drawn twice as often as those of one.
    counts = [2] * 100 + [1] * 200
    drawn = torch.stack([sample_labels(counts, 40, seed).bincount(minlength=300) for seed in range(400)]).double()
    expected = 40 * torch.tensor(counts) / sum(counts)
    error = (expected * (1 - expected) / 400).sqrt()
    assert ((drawn.mean(0) - expected) / error).abs().max() < 5
    assert drawn.max() == 1


class Perfect:
    """Predicts an image of the asked class, which the noise chooses from the training data."""

    def __init__(self, examples: dfw.InMemory) -> None:
        self.schedule = dfw.build("schedule", "vp")
        assert examples.labels is not None
        self.values, self.order = examples.values, examples.labels.argsort(stable=True)
        self.counts = examples.labels.bincount()

    def __call__(self, x, level, cond=None):
        uniform = 0.5 + torch.erf(x.flatten(1)[:, 0] / math.sqrt(2)) / 2
        first = self.counts.cumsum(0) - self.counts
        nth = (uniform * self.counts[cond]).long().clamp(max=self.counts[cond] - 1)
        return Prediction(dfw.to_model(self.values[self.order[first[cond] + nth]]), x)


class Imbalanced(dfw.Data):
    """Noise around the brightness of each class."""

    default_features = "pixels"
    shape = (1, 4, 4)

    def __init__(self, *counts: int) -> None:
        self.counts = counts

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(map(str, range(len(self.counts))))

    def load(self, split: str) -> dfw.InMemory:
        labels = torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))
        random = torch.Generator().manual_seed(int(split == "test"))
        level = 255 * labels.double() / (len(self.counts) - 1)
        values = level.view(-1, 1, 1, 1) + 10 * torch.randn(len(labels), *self.shape, generator=random)
        return dfw.InMemory(values.round().clamp(0, 255).to(torch.uint8), labels)


@pytest.mark.parametrize(
    ("make", "num_samples", "factor"),
    [
        (lambda: dfw.build("data", "emoji", size=8), 500, 1.25),
        (lambda: Imbalanced(1900, 100), 500, 1.25),
        (lambda: Imbalanced(50, 1900, 50), 300, 1.25),
        # A quarter of the classes, chosen at random, and their mean varies; the first quarter is far off.
        (lambda: Imbalanced(*[5] * 400), 100, 5),
    ],
    ids=["emoji", "95:5", "three classes", "more classes than samples"],
)
def test_a_perfect_conditional_model_reaches_the_floor(make, num_samples, factor, tmp_path):
    data = make()
    metric = dfw.build(
        "metric",
        "fid",
        features=dfw.build("features", data.default_features, shape=data.shape),
        train=data.train,
        test=data.test,
        num_samples=num_samples,
        cache_dir=str(tmp_path),
    )
    sampler = dfw.build("sampler", "ddim", steps=1)
    model = Perfect(data.train)
    for seed in range(2):
        metric.reset()
        for _, x in draw(sampler, model, data.shape, range(num_samples), seed=seed, class_counts=data.class_counts):
            metric.update(from_model(x, data.pixels))
        assert metric.compute() < factor * metric.floor()


def test_without_counts_the_classes_take_turns_as_in_version_0_1_0():
    assert sample_labels((0, 0, 0), 7, seed=5).tolist() == [0, 1, 2, 0, 1, 2, 0]
