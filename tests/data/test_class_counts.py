"""How often each class occurs among the training examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.composition.facts import Facts
from diffusion_fw.data.dataset import Batch, WithFlips


@dataclass(frozen=True)
class Unlabelled:
    """Examples that tell their labels only together with their values."""

    examples: dfw.InMemory

    def __len__(self) -> int:
        return len(self.examples)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return self.examples.__getitems__(indices)

    def fingerprint(self) -> str:
        return self.examples.fingerprint()


class Labelled(dfw.Data):
    default_features = "pixels"
    shape = (1, 2, 2)
    class_names = ("rare", "never", "common")

    def __init__(self, train: dfw.Examples, test: dfw.Examples | None = None) -> None:
        self.splits = {"train": train, "test": test or train}

    def load(self, split: str) -> dfw.Examples:
        return self.splits[split]


def labelled(labels: list[int] | None) -> dfw.InMemory:
    count = 2500 if labels is None else len(labels)
    return dfw.InMemory(
        torch.zeros(count, 1, 2, 2, dtype=torch.uint8), None if labels is None else torch.tensor(labels)
    )


@pytest.mark.parametrize("wrap", [lambda item: item, Unlabelled])
def test_classes_are_counted_among_the_training_examples(wrap):
    data = Labelled(wrap(labelled([2] * 2400 + [0] * 100)))
    assert data.class_counts == (100, 0, 2400)


def test_mirror_images_count_too():
    assert Labelled(WithFlips(labelled([2, 2, 0]))).class_counts == (2, 0, 4)


def test_embedded_data_have_the_counts_of_their_labels():
    for name in ("digits", "emoji"):
        data = dfw.build("data", name)
        labels = data.train.__getitems__(range(len(data.train)))[1]
        assert data.class_counts == tuple(labels.bincount().tolist())


def test_data_without_classes_have_no_counts():
    assert dfw.build("data", "checkerboard", num_examples=10).class_counts == ()


@pytest.mark.parametrize(("labels", "found"), [(None, "no labels"), ([0, 3], "from 0 to 3"), ([-1, 2], "from -1 to 2")])
def test_labels_that_are_no_classes_are_refused(labels, found):
    with pytest.raises(dfw.ConfigError, match=f"Labelled has 3 classes, but its training examples have .*{found}"):
        _ = Labelled(labelled(labels)).class_counts
    data = Labelled(labelled([0, 1, 2]), labelled(labels))
    if labels is None:
        assert data.test_class_counts == ()
        assert data.describe().endswith("rare: 1, never: 1, common: 1")
        return
    with pytest.raises(dfw.ConfigError, match=f"Labelled has 3 classes, but its held-out examples have .*{found}"):
        data.describe()
    with pytest.raises(dfw.ConfigError, match="its held-out examples"):
        Facts.of(data, {"data": {"name": "labelled"}})
