"""CIFAR-10 from its published files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusion_fw.data.dataset import Data, Examples, InMemory, WithFlips
from diffusion_fw.data.formats.numpy_pickle import LARGEST_FILE, read_numpy_pickle
from diffusion_fw.files import open_regular, with_home
from diffusion_fw.registry import ConfigError, register

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}


def read_python_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3072) and labels (N,) of a pickled dict {"data": ..., "labels": ...}."""
    batch = read_numpy_pickle(path)
    if not isinstance(batch, dict):
        raise ConfigError(f"data.root: {path} does not hold a dict with data and labels; get the file again")
    entries = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
    if not {"data", "labels"} <= entries.keys():
        raise ConfigError(f"data.root: {path} does not hold data and labels; get the file again")
    pixels, labels = entries["data"], entries["labels"]
    # Nested lists are refused: a few bytes of pickle can make them unfold to any size.
    if isinstance(labels, list) and all(type(label) is int for label in labels):
        labels = np.array(labels)
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, np.ndarray):
        raise ConfigError(f"data.root: {path} does not hold an array of data with a list of labels; get the file again")
    return pixels, labels


def read_binary_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3072) and labels (N,) of rows of 3,073 bytes: the label, then the pixels."""
    try:
        with open_regular(path) as file:
            content = np.frombuffer(file.read(LARGEST_FILE + 1), np.uint8)
    except OSError as error:
        raise ConfigError(f"data.root: {path} cannot be read ({error.strerror}); get the file again") from None
    if content.size > LARGEST_FILE or content.size % (1 + PIXELS):
        raise ConfigError(
            f"data.root: {path} has {content.size:,} bytes, not a multiple of {1 + PIXELS:,}; get the file again"
        )
    rows = content.reshape(-1, 1 + PIXELS)
    return rows[:, 1:], rows[:, 0]


Reader = Callable[[Path], tuple[np.ndarray, np.ndarray]]
FORMATS: tuple[tuple[str, str, Reader], ...] = (
    ("cifar-10-batches-py", "", read_python_batch),
    ("cifar-10-batches-bin", ".bin", read_binary_batch),
)


@register("data", "cifar10")
@dataclass(frozen=True)
class CIFAR10(Data):
    """50,000 training and 10,000 held-out photographs, 32x32 pixels, ten classes (Krizhevsky 2009).

    Reads the python or the binary version, extracted into ``root``, with or without the archive's own folder. Of the
    python version's pickles only arrays are read; anything else is refused. ``horizontal_flip`` adds the mirror image
    of each training image. Raises ConfigError for a missing or corrupt file.
    """

    root: str = "data/cifar10"
    horizontal_flip: bool = False

    default_features: ClassVar[str] = "pixels"
    places: ClassVar[tuple[str, ...]] = ("root",)

    @property
    def shape(self) -> tuple[int, ...]:
        return SHAPE

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASSES

    def load(self, split: str) -> Examples:
        folder, suffix, read = self.find()
        batches = [self.checked(folder / (name + suffix), read) for name in BATCHES[split]]
        pixels, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        examples = InMemory(pixels, labels)
        return WithFlips(examples) if self.horizontal_flip and split == "train" else examples

    def find(self) -> tuple[Path, str, Reader]:
        """The folder of the batches, the suffix of their names and their reader."""
        root = with_home(self.root)
        for subfolder, suffix, read in FORMATS:
            for folder in (root, root / subfolder):
                if (folder / f"test_batch{suffix}").is_file():
                    return folder, suffix, read
        raise ConfigError(
            f"data.root={self.root}: no test_batch and no test_batch.bin in {root.absolute()}; get the python or "
            "binary version of CIFAR-10 and extract it there, or give data.root=<its folder>"
        )

    def checked(self, path: Path, read: Reader) -> tuple[Tensor, Tensor]:
        """One batch: uint8 pixels (N, 3, 32, 32) and int64 labels (N,). Raises ConfigError for any other content."""
        if not path.is_file():
            raise ConfigError(f"data.root: {path} is missing; extract the whole archive of CIFAR-10 there")
        pixels, labels = read(path)
        fits = pixels.dtype == np.uint8 and pixels.shape[1:] == (PIXELS,) and labels.shape == pixels.shape[:1]
        if not fits or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
            raise ConfigError(
                f"data.root: {path} holds {pixels.dtype} {pixels.shape} with {labels.dtype} labels {labels.shape}, "
                f"not uint8 (N, {PIXELS}) with N labels; get the file again"
            )
        if labels.min() < 0 or labels.max() >= len(CLASSES):
            raise ConfigError(f"data.root: {path} has labels outside of 0 .. {len(CLASSES) - 1}; get the file again")
        return torch.tensor(pixels).view(-1, *SHAPE), torch.tensor(labels, dtype=torch.long)
