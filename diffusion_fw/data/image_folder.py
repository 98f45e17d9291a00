"""Images from a folder or a zip."""

from __future__ import annotations

import functools
import itertools
import logging
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal

import torch

from diffusion_fw.data.dataset import Data, Examples, WithFlips
from diffusion_fw.data.formats.decode import Decoder
from diffusion_fw.data.formats.image_examples import LazyImages, NamedImages
from diffusion_fw.data.formats.image_files import SUFFIXES, Folder, ImageFiles, Zip
from diffusion_fw.data.split import hash_limit, uniform_hash
from diffusion_fw.registry import ConfigError, PositiveInt, Range, register

logger = logging.getLogger(__name__)

CACHE_BYTES = 1 << 30
"""The largest split that is decoded into memory."""
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Listing:
    """The split, the class (None without classes) and the content mark of each image, by its path in the source."""

    splits: dict[str, str]
    classes: dict[str, str | None]
    marks: dict[str, str]

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted({name for name in self.classes.values() if name is not None}))


@register("data", "image_folder")
@dataclass(frozen=True)
class ImageFolder(Data):
    """Images in a folder or zip at ``path`` (png, jpg, bmp, gif, webp, tif); sub-folders, sorted, are the classes.

    Parent folders that all images share are ignored. If there are folders train and test at the top, they are the
    split; otherwise ``test_fraction`` of the images are held out by a hash of their relative paths, so that adding an
    image moves no other. The shorter side of each image is resized to ``size`` and the centre is cropped;
    ``horizontal_flip`` adds the mirror image of each training image.

    With ``cache``, a split of at most 1 GiB is decoded into memory at once, and on_error=skip leaves out unreadable
    images and logs how many. A larger split is decoded image by image, and on_error=skip replaces an unreadable image
    by the next readable one. on_error=raise stops at the first unreadable image and names it. Raises ConfigError for a
    path without images, and if some images are in class folders and others are not. A single image is in both splits.
    """

    path: str
    size: PositiveInt = 32
    channels: Literal[1, 3] = 3
    horizontal_flip: bool = False
    test_fraction: Annotated[float, Range(0, 1, low_open=True, high_open=True)] = 0.1
    on_error: Literal["raise", "skip"] = "raise"
    cache: bool = True

    default_features: ClassVar[str] = "pixels"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.size, self.size)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.listing.class_names

    @functools.cached_property
    def files(self) -> ImageFiles:
        """The folder or zip of the images."""
        path = Path(self.path).expanduser()
        if not path.exists():
            raise ConfigError(
                f"data.path={self.path}: no such path {path.absolute()}; give a folder or a zip of images"
            )
        return Folder(path) if path.is_dir() else Zip(path)

    @functools.cached_property
    def listing(self) -> Listing:
        """Split and class of every image, read from its path."""
        marks = self.files.names()
        if not marks:
            raise ConfigError(f"data.path={self.path} holds no images; their names end in {', '.join(SUFFIXES)}")
        inner = without_shared_folders({name: PurePosixPath(name.lstrip("/")) for name in marks})
        splits = self.splits_by_folder(inner)
        if splits:
            inner = {name: inner[name].relative_to(split) for name, split in splits.items()}
        else:
            splits = self.splits_by_hash(inner)
        classes = {name: path.parts[0] if len(path.parts) > 1 else None for name, path in inner.items()}
        if None in classes.values() and len(set(classes.values())) > 1:
            beside = next(name for name, class_name in classes.items() if class_name is None)
            raise ConfigError(
                f"data.path={self.path}: some images are in class folders, but {beside} is not; move it into one"
            )
        return Listing(splits, classes, marks)

    def splits_by_folder(self, paths: dict[str, PurePosixPath]) -> dict[str, str]:
        """The split of each image below train and test if both exist, otherwise nothing."""
        chosen = {name: path.parts[0] for name, path in paths.items() if path.parent.parts and path.parts[0] in SPLITS}
        if set(chosen.values()) != set(SPLITS):
            return {}
        if len(chosen) < len(paths):
            logger.warning(
                "data.path=%s: ignored %d images outside train and test", self.path, len(paths) - len(chosen)
            )
        return chosen

    def splits_by_hash(self, paths: dict[str, PurePosixPath]) -> dict[str, str]:
        """Holds out test_fraction of the images by their hash; at least one, and never all of several."""
        hashes = {name: uniform_hash(path) for name, path in paths.items()}
        limit = hash_limit(min(hashes.values()), max(hashes.values()), self.test_fraction)
        return {name: "test" if value < limit else "train" for name, value in hashes.items()}

    def load(self, split: str) -> Examples:
        listing = self.listing
        single = len(listing.splits) == 1
        names = {name: listing.marks[name] for name, value in listing.splits.items() if value == split or single}
        indices = {class_name: index for index, class_name in enumerate(listing.class_names)}
        classes = (listing.classes[name] for name in names)
        labels = [indices[class_name] for class_name in classes if class_name is not None]
        decoder = Decoder(self.size, self.channels)
        images = NamedImages(self.files, names)
        lazy = LazyImages(images, torch.tensor(labels) if labels else None, decoder, self.on_error)
        fits = len(names) * math.prod(self.shape) <= CACHE_BYTES
        examples: Examples = lazy.in_memory() if self.cache and fits else lazy
        return WithFlips(examples) if self.horizontal_flip and split == "train" else examples


def without_shared_folders(paths: dict[str, PurePosixPath]) -> dict[str, PurePosixPath]:
    """The paths relative to the folders that all of them share."""
    levels = zip(*(path.parent.parts for path in paths.values()), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, levels))
    return {name: PurePosixPath(*path.parts[shared:]) for name, path in paths.items()}
