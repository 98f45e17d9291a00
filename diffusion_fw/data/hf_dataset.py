"""Data sets of images of the Hugging Face hub, or of a folder, by the package datasets."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor

from diffusion_fw.data.formats.decode import LARGEST_SIDE
from diffusion_fw.data.formats.descriptions import Captions, with_warning
from diffusion_fw.data.formats.map_style import DatasetData, Fitted, MapStyle
from diffusion_fw.registry import ConfigError, Range, register

OLDEST = 4
"""Of the package datasets, the first major version that runs no script of a repository."""


@register("data", "hf_dataset")
@dataclass(frozen=True)
class HFDataset(DatasetData):
    """Images of the dataset ``path``, OWNER/NAME of the Hugging Face hub or a folder of the package datasets.

    ``subset`` and ``revision`` are the hub's; give a commit as ``revision`` so that the data stay the same. ``image``
    and ``label`` are the columns; label=null for none. ``caption_column`` holds a text for each image. test_split=null
    holds ``test_fraction`` of the training split out. The shorter side of each image is resized to ``size`` and the
    centre cropped. Loading by a path downloads the data into the cache of the package. No script of a repository is
    run. Raises ConfigError without the package, for a version that would run one, and for data that cannot be read.
    """

    path: str
    subset: str | None = None
    revision: str | None = None
    train_split: str = "train"
    test_split: str | None = "test"
    image_column: str = "image"
    label_column: str | None = "label"
    caption_column: str | None = None
    size: Annotated[int, Range(1, LARGEST_SIDE)] = 32
    channels: Literal[1, 3] = 3
    test_fraction: Annotated[float, Range(0, 1, low_open=True, high_open=True)] = 0.1

    places: ClassVar[tuple[str, ...]] = ("path",)
    fetched_by: ClassVar[str] = "path"

    @functools.cached_property
    def package(self) -> Any:
        """The package datasets."""
        try:
            import datasets
        except ImportError as error:
            raise ConfigError(f'data=hf_dataset: {error}; install it by pip install "diffusion-fw[datasets]"') from None
        if int(datasets.__version__.split(".")[0]) < OLDEST:
            raise ConfigError(
                f"data=hf_dataset: datasets {datasets.__version__} can run scripts of a repository; pip install "
                f"'datasets>={OLDEST}'"
            )
        return datasets

    def dataset(self, split: str) -> MapStyle | None:
        name = self.train_split if split == "train" else self.test_split
        if name is None:
            return None
        try:
            found = self.package.load_dataset(self.path, self.subset, split=name, revision=self.revision)
        except ConfigError:
            raise
        except Exception as error:  # many kinds: offline, no such dataset, no such split, a script
            raise ConfigError(
                f"data.path={self.path}: split {name!r} cannot be read: {type(error).__name__}: {str(error)[:300]}"
            ) from None
        columns = [self.image_column, *filter(None, (self.label_column, self.caption_column))]
        for column in columns:
            if column not in found.column_names:
                raise ConfigError(
                    f"data.path={self.path} has no column {column!r}, but {', '.join(found.column_names)}; set "
                    "data.image_column, data.label_column and data.caption_column"
                )
        selected: MapStyle = found.select_columns(columns)
        return selected

    @property
    def keys(self) -> tuple[tuple[str, ...], tuple[str, ...]]:  # type: ignore[override]
        """The columns."""
        return (self.image_column,), () if self.label_column is None else (self.label_column,)

    def image(self, image: Image.Image) -> Tensor:
        return Fitted(self.size, self.channels)(image)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.size, self.size)

    def labels(self, dataset: Any) -> Tensor | None:
        return None if self.label_column is None else torch.as_tensor(dataset[self.label_column][:]).long()

    @functools.cached_property
    def _captions(self) -> Captions | None:
        if self.caption_column is None:
            return None
        found = {}
        for split, examples in self.splits.items():
            dataset: Any = examples.dataset
            texts = dataset[self.caption_column][:]
            found[split] = [self._caption(texts[index], index) for index in examples.indices]
        return with_warning(found, lambda split, index: f"{split} {self.splits[split].indices[index]}", "data.path")

    def _caption(self, text: Any, index: int) -> str:
        if text is None:
            return ""
        if not isinstance(text, str):
            raise ConfigError(
                f"data.caption_column={self.caption_column}: that of example {index} is a {type(text).__name__}; it "
                "must be a text"
            )
        return text.strip()

    def captions(self, split: str) -> list[str] | None:
        return None if self._captions is None else self._captions[split]

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        dataset: Any = self.splits["train"].dataset
        if self.label_column is None:
            return ()
        names = getattr(dataset.features[self.label_column], "names", None)
        labels = self.splits["train"].labels
        assert labels is not None
        return tuple(names) if names else tuple(map(str, range(int(labels.max()) + 1)))
