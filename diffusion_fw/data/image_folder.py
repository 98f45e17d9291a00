"""Images from a folder or a zip."""

from __future__ import annotations

import functools
import logging
import math
import stat
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.data.dataset import Data, Examples, WithFlips
from diffusion_fw.data.formats import descriptions
from diffusion_fw.data.formats.decode import LARGEST_SIDE, Decoder
from diffusion_fw.data.formats.image_examples import LazyImages, NamedImages
from diffusion_fw.data.formats.image_files import SUFFIXES, Folder, ImageFiles, LeftOut, Zip, inner_path
from diffusion_fw.data.split import held_out_by_hash, split_of, uniform_hash
from diffusion_fw.files import version, with_home
from diffusion_fw.registry import ConfigError, NonNegativeInt, Range, register

logger = logging.getLogger(__name__)

CACHE_BYTES = 1 << 30
"""The largest split that is decoded into memory."""


@dataclass(frozen=True)
class Listing:
    """The split, the class (None without classes) and the size of each image, by its path in the source."""

    splits: dict[str, str]
    classes: dict[str, str | None]
    sizes: dict[str, int]
    division: str
    """How the splits were found."""
    described_by: tuple[str, ...] = ()
    """The files that hold captions and numbers of the images."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted({name for name in self.classes.values() if name is not None}))


@register("data", "image_folder")
@dataclass(frozen=True)
class ImageFolder(Data):
    """Images in a folder or zip at ``path`` (png, jpg, bmp, gif, webp, tif, ppm, avif); their folders are the classes.

    The class of an image is the name of its folder, or of the outermost folder above it that holds images itself.
    ``class_level`` takes another one: 0 the outermost folder below ``path``, 1 the next. One class alone is none. If
    folders are named like splits (train, val, test, in any case, Training, valid, test_set, ...), they are the split:
    test is held out, or without it val, and other images are left out. Otherwise ``test_fraction`` of the images are
    held out, by a hash of the image's name and its folder's (with class_level: of the path from that folder on), which
    no other file changes; a class that would be held out as a whole is trained on. Files that are no images are counted
    and named in one warning.

    The shorter side of each image is resized to ``size`` and the centre is cropped; ``horizontal_flip`` adds the mirror
    image of each training image. With ``cache``, a split of at most 1 GiB is decoded into memory at once, and
    on_error=skip leaves out unreadable images and logs how many. A larger split is decoded image by image, and
    on_error=skip replaces an unreadable image by the next readable one. on_error=raise stops at the first unreadable
    image and names it.

    Captions are in captions.csv, captions.jsonl, metadata.csv or metadata.jsonl with the columns file_name (from the
    folder of that file on) and text, or in NAME.txt beside NAME.png. Other columns that are numbers are attributes.

    Raises ConfigError for a path without images, if some images are in class folders and others are not, and for a
    held-out split without a training split. A single image is in both splits.
    """

    path: str
    size: Annotated[int, Range(1, LARGEST_SIDE)] = 32
    channels: Literal[1, 3] = 3
    horizontal_flip: bool = False
    test_fraction: Annotated[float, Range(0, 1, low_open=True, high_open=True)] = 0.1
    class_level: NonNegativeInt | None = None
    on_error: Literal["raise", "skip"] = "raise"
    cache: bool = True

    default_features: ClassVar[str] = "pixels"
    places: ClassVar[tuple[str, ...]] = ("path",)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.size, self.size)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.listing.class_names

    @functools.cached_property
    def files(self) -> ImageFiles:
        """The folder or zip of the images."""
        path = with_home(self.path)
        try:
            return Folder(path) if stat.S_ISDIR(path.stat().st_mode) else Zip(path, version(path))
        except (OSError, ValueError) as error:
            reason = "no such path" if isinstance(error, FileNotFoundError) else f"{error}:"
            raise ConfigError(
                f"data.path={self.path}: {reason} {path.absolute()}; give a folder or a zip of images"
            ) from None

    @property
    def division(self) -> str:
        return self.listing.division

    @functools.cached_property
    def listing(self) -> Listing:
        """Split and class of every image, read from its path."""
        sizes, others = self.files.names()
        described_by = descriptions.beside(sizes, others)
        others = [other for other in others if other[0] not in set(described_by)]
        left_out = LeftOut()
        for name, kind in others:
            left_out.add(kind, name)
        if not sizes:
            there = f" but {left_out}" if others else ""
            raise ConfigError(f"data.path={self.path} holds no images{there}; their names end in {', '.join(SUFFIXES)}")
        if others:
            logger.warning("data.path=%s: read %s images, left out %s", self.path, f"{len(sizes):,}", left_out)
        paths = {name: inner_path(name) for name in sizes}
        splits, division = self.splits_by_folder(paths, [inner_path(name) for name, kind in others if kind != "hidden"])
        folders = {name: without_split(paths[name]) if splits else paths[name].parent.parts for name in splits or paths}
        class_folders = self.class_folders(folders)
        if not splits:
            splits, division = self.splits_by_hash(paths, class_folders)
        classes = {name: folder[-1] if folder else None for name, folder in class_folders.items()}
        listing = self.with_trained_classes(Listing(splits, classes, sizes, division))
        splits, classes = listing.splits, listing.classes
        if len(set(classes.values())) == 1:
            classes = dict.fromkeys(classes)
        for named in sorted({name for name in classes.values() if name and split_of(name)}):
            logger.warning("data.path=%s: %.100r is a class, not a split; the splits: %s", self.path, named, division)
        return Listing(splits, classes, sizes, division, tuple(described_by))

    def splits_by_folder(
        self, paths: dict[str, PurePosixPath], others: list[PurePosixPath]
    ) -> tuple[dict[str, str], str]:
        """The split of each image in a folder of a split, and how it was found; nothing where there are no splits.

        ``others`` are the paths of the other files.
        """
        places = {name: place for name, path in paths.items() if (place := split_folder(path))}
        kinds = {name: split_of(place) for name, place in places.items()}
        present = set(kinds.values())
        empty = [path for path in others if (kind := split_of(split_folder(path) or "")) and kind not in present]
        if present and empty:
            raise ConfigError(f"data.path={self.path}: the split of {empty[0]} holds no image; add some, or remove it")
        held = "test" if "test" in present else "val"
        if {"train", held} <= present:
            names = {"train": "train", held: "test"}
            splits = {name: names[kind] for name, kind in kinds.items() if kind in names}
            folders = (sorted({places[name] for name in splits if kinds[name] == kind}) for kind in names)
            shown = " and ".join(map("/".join, folders))
            beside = [name for name in paths if name not in splits]
            if beside:
                logger.warning(
                    "data.path=%s: ignored %d images outside %s, such as %.100r",
                    self.path,
                    len(beside),
                    shown,
                    beside[0],
                )
            return splits, f"the folders {shown}"
        flat = len(kinds) < len(paths) and all(paths[name].parent.name == place for name, place in places.items())
        if held in present and (len(kinds) < len(paths) or len(present) > 1) and not flat:
            raise ConfigError(
                f"data.path={self.path}: images are held out in {', '.join(sorted(set(places.values())))}, but no "
                "folder is named train; name that of the others train, or give data.path=<the folder of the classes>"
            )
        return {}, ""

    def class_folders(self, folders: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """The folder that gives each image its class, () for an image without one, from the folders above it."""
        if self.class_level is not None:
            found = {name: parts[: self.class_level + 1] for name, parts in folders.items()}
            outside = [name for name, parts in found.items() if len(parts) <= self.class_level]
            if outside:
                raise ConfigError(
                    f"data.class_level={self.class_level}: {outside[0]} is in no folder of that level; lower "
                    "class_level, or move it into one"
                )
            return found
        holders = set(folders.values())
        found = {
            name: next((parts[:end] for end in range(1, len(parts)) if parts[:end] in holders), parts)
            for name, parts in folders.items()
        }
        shared = min(holders, key=len)
        if len(holders) > 1 and (not shared or set(found.values()) == {shared}):
            beside = next(name for name, parts in folders.items() if parts == shared)
            raise ConfigError(
                f"data.path={self.path}: some images are in class folders, but {beside} is not; move it into one"
            )
        nested = [name for name, parts in folders.items() if parts != found[name]]
        if nested:
            logger.warning(
                "data.path=%s: %d images in sub-folders of a class belong to that class, such as %.100r",
                *(self.path, len(nested), nested[0]),
            )
        return found

    def with_trained_classes(self, listing: Listing) -> Listing:
        """The listing without the images of classes that have no readable training image, for on_error=skip.

        Raises ConfigError where a class has no training image at all.
        """
        training = [name for name, split in listing.splits.items() if split == "train"]
        trained = {listing.classes[name] for name in training}
        untrained = [name for name in listing.splits if listing.classes[name] not in trained]
        if untrained:
            raise ConfigError(
                f"data.path={self.path}: {untrained[0]} is held out, but no training image is of its class "
                f"{listing.classes[untrained[0]]}; add some, or remove the class"
            )
        if self.on_error == "skip" and len(trained) > 1:
            images = NamedImages(self.files, training, [listing.sizes[name] for name in training])
            lazy = LazyImages(images, None, Decoder(self.size, self.channels), self.on_error)
            trained = lazy.readable_among([listing.classes[name] for name in training])
            untrained = [name for name in listing.splits if listing.classes[name] not in trained]
        if untrained and trained:
            left_out = LeftOut()
            for name in untrained:
                left_out.add(f"of the class {listing.classes[name]!r:.100}", name)
            logger.warning("data.path=%s: left out classes without a readable training image: %s", self.path, left_out)
            kept = {name: split for name, split in listing.splits.items() if listing.classes[name] in trained}
            listing = replace(listing, splits=kept, classes={name: listing.classes[name] for name in kept})
        return listing

    def splits_by_hash(
        self, paths: dict[str, PurePosixPath], class_folders: dict[str, tuple[str, ...]]
    ) -> tuple[dict[str, str], str]:
        """Holds out test_fraction of the images by their hash, at least one and never all; and how it was done."""
        if len(paths) == 1:
            return dict.fromkeys(paths, "train"), "the single image is in both splits"
        first = -2 if self.class_level is None else self.class_level
        values = [uniform_hash(PurePosixPath(*path.parts[first:])) for path in paths.values()]
        hashes = torch.tensor(values, dtype=torch.float64)
        if len(hashes.unique()) == 1:
            raise ConfigError(
                f"data.path={self.path}: all images have the name {next(iter(paths.values())).name} in folders of one "
                "name, by which they would be split; put them into folders train and test, or give data.class_level=0"
            )
        numbers: dict[tuple[str, ...], int] = {}
        classes = [numbers.setdefault(class_folders[name][-1:], len(numbers)) for name in paths]
        chosen = held_out_by_hash(hashes, torch.tensor(classes), self.test_fraction)
        if not chosen.any():
            raise ConfigError(
                f"data.path={self.path}: no image can be held out, as each class has a single one; put some into "
                "folders train and test, or all into one folder"
            )
        held = {name for name, held_out in zip(paths, chosen.tolist(), strict=True) if held_out}
        splits = {name: "test" if name in held else "train" for name in paths}
        return splits, f"about {self.test_fraction:g} held out by a hash of the names"

    @functools.cached_property
    def images(self) -> dict[str, LazyImages]:
        """The images of each split, before they are decoded."""
        return {split: self._images(split) for split in ("train", "test")}

    def _images(self, split: str) -> LazyImages:
        listing = self.listing
        single = len(listing.splits) == 1
        names = [name for name, value in listing.splits.items() if value == split or single]
        indices = {class_name: index for index, class_name in enumerate(listing.class_names)}
        classes = (listing.classes[name] for name in names)
        labels = [indices[class_name] for class_name in classes if class_name is not None]
        decoder = Decoder(self.size, self.channels)
        images = NamedImages(self.files, names, [listing.sizes[name] for name in names])
        return LazyImages(images, torch.tensor(labels) if labels else None, decoder, self.on_error)

    def _held(self, split: str) -> bool:
        """Whether the images of a split are decoded into memory."""
        return self.cache and len(self.images[split]) * math.prod(self.shape) <= CACHE_BYTES

    def load(self, split: str) -> Examples:
        lazy = self.images[split]
        examples: Examples = lazy.in_memory() if self._held(split) else lazy
        return WithFlips(examples) if self.horizontal_flip and split == "train" else examples

    @functools.cached_property
    def described(self) -> descriptions.Descriptions:
        """What files beside the images say of them."""
        return descriptions.read(self.files, self.listing.sizes, self.listing.described_by, "data.path")

    @functools.cached_property
    def named(self) -> dict[str, list[str]]:
        """The name of each example of both splits. Raises ConfigError where unreadable images are replaced."""
        if self.on_error == "skip":
            if not all(map(self._held, self.images)):
                raise ConfigError(
                    "data.on_error=skip replaces an unreadable image that is not held in memory by the next one, whose "
                    "caption is another; repair the images and set data.on_error=raise"
                )
            _ = self.train, self.test  # after which the unreadable ones are known
        return {
            split: [lazy.images.name(index) for index in range(len(lazy)) if index not in lazy.unreadable]
            for split, lazy in self.images.items()
        }

    @functools.cached_property
    def _captions(self) -> descriptions.Captions | None:
        known, names = self.described.captions, self.named if self.described.captions else {}
        found = {split: [known.get(name, "") for name in images] for split, images in names.items()}
        return descriptions.with_warning(found, lambda split, index: names[split][index], f"data.path={self.path}")

    def captions(self, split: str) -> list[str] | None:
        return None if self._captions is None else self._captions[split]

    def attributes(self, split: str) -> Tensor | None:
        if not self.described.columns:
            return None
        return descriptions.numbers_of(self.named[split], self.described, f"data.path={self.path}")


def split_folder(path: PurePosixPath) -> str | None:
    """The outermost folder of a path that is named like a split."""
    return next(filter(split_of, path.parent.parts), None)


def without_split(path: PurePosixPath) -> tuple[str, ...]:
    """The folders of a path without the one that is the split."""
    parts, place = list(path.parent.parts), split_folder(path)
    if place:
        parts.remove(place)
    return tuple(parts)
