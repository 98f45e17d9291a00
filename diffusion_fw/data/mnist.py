"""MNIST and the data sets published in its format."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_fw.data.dataset import Data, InMemory
from diffusion_fw.data.formats.idx import read_idx
from diffusion_fw.files import with_home
from diffusion_fw.registry import ConfigError, register

# The held-out files are named t10k in MNIST and test in EMNIST.
STEMS = {"train": ("train",), "test": ("t10k", "test")}


@register("data", "mnist")
@dataclass(frozen=True)
class MNIST(Data):
    """Gray images of any size from IDX files in ``root``, plain or .gz (LeCun et al. 1998; Fashion-, K-, EMNIST).

    The files are <prefix>train-images-idx3-ubyte, <prefix>train-labels-idx1-ubyte, and the same with t10k (or test)
    for train; ``prefix`` is, for example, emnist-digits-. The classes are the labels of the training images. Raises
    ConfigError for a missing or corrupt file, if there are not as many labels as images, and for a held-out label that
    no training image has.
    """

    root: str = "data/mnist"
    prefix: str = ""

    default_features: ClassVar[str] = "pixels"
    places: ClassVar[tuple[str, ...]] = ("root",)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.train.values.shape[1:])

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        return tuple(str(number) for number in self.numbers.tolist())

    @functools.cached_property
    def numbers(self) -> Tensor:
        """The labels of the training images, sorted."""
        found: Tensor = read_idx(self.find("train", "labels-idx1-ubyte"), 1).unique()
        return found

    @functools.cached_property
    def train(self) -> InMemory:
        return self.load("train")

    def load(self, split: str) -> InMemory:
        images_path, labels_path = self.find(split, "images-idx3-ubyte"), self.find(split, "labels-idx1-ubyte")
        images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
        if len(images) != len(labels):
            raise ConfigError(
                f"data.root: {images_path} holds {len(images)} images but {labels_path} {len(labels)} labels; "
                "get both files from the same place"
            )
        if images.numel() == 0:
            raise ConfigError(f"data.root: {images_path} holds no images; get the file again")
        unknown = labels[~torch.isin(labels, self.numbers)]
        if len(unknown):
            raise ConfigError(
                f"data.root: {labels_path} has the label {int(unknown[0])}, which no training image has; get all files "
                "from the same place"
            )
        return InMemory(images.unsqueeze(1), torch.searchsorted(self.numbers, labels))

    def find(self, split: str, kind: str) -> Path:
        """The file of a split's images or labels. Raises ConfigError that says what to get and where to put it."""
        root = with_home(self.root)
        names = [f"{self.prefix}{stem}-{kind}" for stem in STEMS[split]]
        for path in (root / (name + suffix) for name in names for suffix in ("", ".gz")):
            if path.is_file():
                return path
        raise ConfigError(
            f"data.root={self.root}: {names[0]} (or {names[0]}.gz) is missing; get the four IDX files of MNIST, or "
            f"of a data set in its format, and put them into {root.absolute()}, or give data.root=<their folder> and "
            "data.prefix=<what their names begin with>"
        )
