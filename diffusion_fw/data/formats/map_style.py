"""Map-style datasets of torch as data: dataset[i] gives an example, with or without a label."""

from __future__ import annotations

import functools
import hashlib
import logging
import numbers
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion_fw.data.dataset import READ_AT_ONCE, Batch, Data, Examples, InMemory, evenly_spaced, usual_features
from diffusion_fw.data.formats.decode import fitted, on_white
from diffusion_fw.data.split import held_out_by_hash, uniform_hash
from diffusion_fw.registry import ConfigError

CACHE_BYTES = 1 << 30
"""The largest split that is read into memory."""
HASHED = 1000
"""The most examples that a fingerprint reads."""
TRIED = 4
"""The examples that are read twice, since the same index must give the same example."""

logger = logging.getLogger(__name__)


class MapStyle(Protocol):
    """A Dataset of torch, or any other sequence of examples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


Example = tuple[Tensor, int | None]
Read = Callable[[Any], Example]


@dataclass(frozen=True)
class MapExamples:
    """The examples of a dataset at some of its indices, read on each access."""

    dataset: MapStyle
    indices: Sequence[int]
    read: Read
    labels: Tensor | None
    """Those of the indices; None without classes."""

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = [int(index) for index in torch.as_tensor(indices)]
        values = [self.read(self.dataset[self.indices[index]])[0] for index in chosen]
        odd = next((i for i, value in enumerate(values) if value.shape != values[0].shape), None)
        if odd is not None:
            raise ConfigError(
                f"data: example {self.indices[chosen[odd]]} has the shape {tuple(values[odd].shape)}, example "
                f"{self.indices[chosen[0]]} {tuple(values[0].shape)}; all must have one: resize them in the dataset"
            )
        return torch.stack(values), None if self.labels is None else self.labels[chosen]

    def fingerprint(self) -> str:
        """A hash of the number of examples and of the content of at most HASHED, evenly spaced."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        content = hashlib.sha256(repr(len(self)).encode())
        for index in evenly_spaced(len(self), HASHED):
            content.update(self.__getitems__([index])[0].contiguous().numpy().tobytes())
        return content.hexdigest()[:16]


class DatasetData(Data):
    """Data of map-style datasets: define ``dataset(split)``, whose items are x, (x, label) or {"image": x, ...}.

    x is an image of PIL or a uint8 array (H, W) or (H, W, C), which become pixels (C, H, W); or a tensor as the model
    sees it: uint8 pixels (C, H, W), or floats. The label is an integer, and the names of the classes are the dataset's
    ``classes``, unless ``class_names`` is overridden. The same index gives the same example: random changes belong to
    ``augmentation``. A split of at most 1 GiB is read into memory at once.

    Raises ConfigError for examples of several shapes, other labels, and a dataset that draws random numbers.
    """

    value_range = None
    test_fraction: float = 0.1
    """How many examples are held out where ``dataset("test")`` is None; by a hash of their index."""
    keys: tuple[tuple[str, ...], tuple[str, ...]] = (("image", "img", "x"), ("label", "fine_label", "y"))
    """The names by which an item that is a mapping has its x and its label; the first that is there counts."""

    @abstractmethod
    def dataset(self, split: str) -> MapStyle | None:
        """The dataset of the split "train" or "test"; None for "test" where some of the others are held out."""

    def image(self, image: Image.Image) -> Tensor:
        """uint8 (C, H, W) of an image of PIL: gray or colour, white in place of transparency."""
        plain = on_white(image.copy(), "L" if image.mode in ("1", "L") else "RGB")
        return torch.from_numpy(np.array(plain)).view(image.height, image.width, -1).permute(2, 0, 1)

    def read(self, item: Any) -> Example:
        """x and the label of an item."""
        x, label = item, None
        if isinstance(item, Mapping):
            x, label = (next((item[key] for key in names if key in item), None) for names in self.keys)
            if x is None:
                raise ConfigError(
                    f"data: an item has none of the keys {', '.join(self.keys[0])}, but {', '.join(item)}"
                )
        elif isinstance(item, (tuple, list)):
            x, label = (*item, None)[:2]
        return self.values(x), None if label is None else _class(label)

    def values(self, x: Any) -> Tensor:
        """A tensor of what an item holds."""
        if isinstance(x, Image.Image):
            return self.image(x)
        if isinstance(x, np.ndarray):
            pixels = torch.from_numpy(np.ascontiguousarray(x))
            if x.dtype == np.uint8 and x.ndim in (2, 3):
                return pixels[None] if x.ndim == 2 else pixels.permute(2, 0, 1)
            return pixels
        if isinstance(x, Tensor):
            return x.detach().cpu()
        raise ConfigError(f"data: an example is a {type(x).__name__}; it must be a tensor, an array or an image of PIL")

    @functools.cached_property
    def datasets(self) -> tuple[MapStyle | None, MapStyle | None]:
        """Those of training and of the held-out examples."""
        return self.dataset("train"), self.dataset("test")

    @functools.cached_property
    def splits(self) -> dict[str, MapExamples]:
        """The examples of both splits, before they are read."""
        train, test = self.datasets
        if train is None:
            raise ConfigError(f"data: {type(self).__name__}.dataset('train') is None; it must be a dataset")
        for dataset in (train, test):
            if dataset is not None:
                self.check(dataset)
        labels, everything = self.labels(train), range(len(train))
        if test is not None:
            other = range(len(test))
            return {
                "train": MapExamples(train, everything, self.read, labels),
                "test": MapExamples(test, other, self.read, self.labels(test)),
            }
        hashes = torch.tensor([uniform_hash(PurePosixPath(str(index))) for index in everything])
        classes = torch.zeros(len(train), dtype=torch.int64) if labels is None else labels
        held = held_out_by_hash(hashes, classes, self.test_fraction)
        return {
            split: MapExamples(train, chosen.tolist(), self.read, None if labels is None else labels[chosen])
            for split, chosen in (("train", (~held).nonzero()[:, 0]), ("test", held.nonzero()[:, 0]))
        }

    def check(self, dataset: MapStyle) -> None:
        """ConfigError for an empty dataset, and for one whose examples change from one read to the next."""
        if not len(dataset):
            raise ConfigError(f"data: a {type(dataset).__name__} is empty")
        for index in evenly_spaced(len(dataset), TRIED):
            (one, _), (other, _) = (self.read(dataset[index]) for _ in range(2))
            if not torch.equal(one, other):
                raise ConfigError(
                    f"data: example {index} of {type(dataset).__name__} is another one each time it is read; leave out "
                    "its random changes, and choose augmentation=[...] for those of training"
                )
        if one.is_floating_point() and one.ndim == 3 and one.min() >= 0 and one.max() <= 1:
            logger.warning(
                "data: images are floats from 0 to 1, which the model sees as they are; for pixels, which it sees "
                "in [-1, 1], return uint8, such as images of PIL without ToTensor"
            )

    def labels(self, dataset: MapStyle) -> Tensor | None:
        """The labels of all examples: the dataset's ``targets`` or ``labels``, or else read with the examples.

        The former only where they are those of some items: a dataset may change its labels on the way.
        Raises ConfigError for labels below 0.
        """
        if self.read(dataset[0])[1] is None:
            return None
        tried = {index: _required(self.read(dataset[index])[1], index) for index in evenly_spaced(len(dataset), TRIED)}
        for name in ("targets", "labels"):
            try:
                known = torch.as_tensor(getattr(dataset, name, None))
            except (TypeError, ValueError, RuntimeError):
                continue
            whole = known.shape == (len(dataset),) and not (known.is_floating_point() or known.is_complex())
            if whole and all(int(known[index]) == label for index, label in tried.items()):
                found = known.long()
                break
        else:
            found = torch.tensor([_required(self.read(dataset[index])[1], index) for index in range(len(dataset))])
        if int(found.min()) < 0:
            raise ConfigError(f"data: a {type(dataset).__name__} has the label {int(found.min())}; labels begin at 0")
        return found

    def load(self, split: str) -> Examples:
        examples = self.splits[split]
        one = examples.__getitems__([0])[0]
        if one.nbytes * len(examples) > CACHE_BYTES:
            return examples
        blocks = (range(i, min(i + READ_AT_ONCE, len(examples))) for i in range(0, len(examples), READ_AT_ONCE))
        return InMemory(torch.cat([examples.__getitems__(block)[0] for block in blocks]), examples.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.splits["train"].__getitems__([0])[0].shape[1:])

    @property
    def default_features(self) -> str:  # type: ignore[override]
        """Those that fit any examples of the shape."""
        return usual_features(self.shape)

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        examples = self.splits["train"]
        if examples.labels is None:
            return ()
        stated = getattr(examples.dataset, "classes", None)
        return tuple(map(str, stated)) if stated else tuple(map(str, range(int(examples.labels.max()) + 1)))

    @property
    def division(self) -> str:
        return "" if self.datasets[1] is not None else f"{self.test_fraction:g} held out by a hash of the index"


@dataclass(frozen=True)
class MapDataset(DatasetData):
    """The data of one or two datasets that are there already; see ``DatasetData`` for what they hold.

    ``MapDataset(train, test)``; without ``test``, ``test_fraction`` of the examples are held out.
    """

    train_dataset: MapStyle
    test_dataset: MapStyle | None = None
    test_fraction: float = 0.1

    def dataset(self, split: str) -> MapStyle | None:
        return self.train_dataset if split == "train" else self.test_dataset


@dataclass(frozen=True)
class Fitted:
    """An image of PIL as uint8 (channels, size, size): the shorter side is resized, the centre cropped."""

    size: int
    channels: int

    def __call__(self, image: Image.Image) -> Tensor:
        return fitted(image.copy(), self.size, self.channels)


def _class(label: Any) -> int:
    if isinstance(label, Tensor) and label.numel() == 1 and not label.is_floating_point():
        return int(label)
    if isinstance(label, numbers.Integral):
        return int(label)
    raise ConfigError(
        f"data: the label of an example is {label!r:.100}, a {type(label).__name__}; it must be an integer, the number "
        "of its class; leave out what is none"
    )


def _required(label: int | None, index: int) -> int:
    if label is None:
        raise ConfigError(f"data: example {index} has no label, but others have; give all of them one, or none")
    return label
