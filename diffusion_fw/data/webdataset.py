"""Images in tar shards."""

from __future__ import annotations

import functools
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.data.dataset import Data, Examples, WithFlips
from diffusion_fw.data.formats.decode import LARGEST_SIDE, Decoder
from diffusion_fw.data.formats.descriptions import Captions, with_warning
from diffusion_fw.data.formats.image_examples import LazyImages
from diffusion_fw.data.formats.shards import Shards, expand
from diffusion_fw.data.formats.tar_index import BAD_LABEL, MOST_CLASSES, NO_LABEL
from diffusion_fw.data.split import held_out_by_hash, split_of
from diffusion_fw.registry import ConfigError, Range, register

logger = logging.getLogger(__name__)


@register("data", "webdataset")
@dataclass(frozen=True)
class WebDataset(Data):
    """Images in tar shards in WebDataset's layout: KEY.png (jpg, webp, ...) with KEY.cls, or "label" in KEY.json.

    A key ends at the first dot. KEY.NAME.png is an image of its own where there is no KEY.png, with the label in
    KEY.NAME.cls or else in KEY.cls; beside a KEY.png it is left out. One warning counts and names what is left out.
    The caption of an image is in KEY.txt.

    ``shards`` is a path, a glob, a range such as train-{0000..0009}.tar, or a list of these; on a command line braces
    are quoted twice, 'data.shards="train-{0000..0009}.tar"'. Only uncompressed tars are read. Each shard is indexed
    once from its headers, and the index is cached, so that any example can be read by seeking: the examples are
    shuffled globally, as those of any other data, and a run resumes at any step. Nothing is extracted.

    ``test_shards`` are held out; without them ``test_fraction`` of the images are, by a hash of the shard's name and
    the key, but no whole class. Either all images have labels, numbers from 0, or none has; the classes are the numbers
    that training images have. Sizes and flips are as in data=image_folder.
    on_error=skip replaces an unreadable image by the next readable one and leaves out images with an unreadable label;
    on_error=raise stops and names the shard and the member. Raises ConfigError for a pattern that matches no shard and
    for a truncated shard.
    """

    shards: str | list[str]
    test_shards: str | list[str] | None = None
    size: Annotated[int, Range(1, LARGEST_SIDE)] = 32
    channels: Literal[1, 3] = 3
    horizontal_flip: bool = False
    test_fraction: Annotated[float, Range(0, 1, low_open=True, high_open=True)] = 0.1
    on_error: Literal["raise", "skip"] = "raise"

    default_features: ClassVar[str] = "pixels"
    places: ClassVar[tuple[str, ...]] = ("shards", "test_shards")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.size, self.size)

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(str(number) for number in self.numbers.tolist())

    @functools.cached_property
    def numbers(self) -> Tensor:
        """The numbers of the classes in the files, sorted: those of the training images; empty without labels."""
        found: Tensor = self.splits["train"].label.unique()
        return found[found >= 0]

    @functools.cached_property
    def splits(self) -> dict[str, Shards]:
        """The images of each split; either all have a label or none has."""
        paths = expand(self.shards, "data.shards")
        if self.test_shards is None:
            check_one_split(paths)
            splits = self.splits_by_hash(self.labelled(Shards.of(paths)))
        else:
            held_out = expand(self.test_shards, "data.test_shards")
            shared = {os.path.realpath(path) for path in paths} & {os.path.realpath(path) for path in held_out}
            if shared:
                raise ConfigError(f"data.test_shards: {min(shared)} is also in data.shards; keep it in one of them")
            splits = {"train": self.labelled(Shards.of(paths)), "test": self.labelled(Shards.of(held_out))}
        with_labels = {split: bool((shards.label >= 0).any()) for split, shards in splits.items()}
        if len(set(with_labels.values())) > 1:
            raise ConfigError(
                "data.test_shards: only one of data.shards and data.test_shards has labels; label both or neither"
            )
        return self.with_trained_classes(splits) if with_labels["train"] else splits

    def with_trained_classes(self, splits: dict[str, Shards]) -> dict[str, Shards]:
        """The splits without the images of classes that have no readable training image, for on_error=skip.

        Raises ConfigError where a class has no training image at all.
        """
        train, test = splits["train"], splits["test"]
        trained = train.label.unique()
        untrained = ~torch.isin(test.label, trained)
        if untrained.any():
            first = int(untrained.nonzero()[0])
            raise ConfigError(
                f"data.test_shards: {test.name(first)} has the label {int(test.label[first])}, which no training image "
                "has; add some with that label, or remove it"
            )
        if self.on_error == "raise" or len(trained) == 1:
            return splits
        lazy = LazyImages(train, None, Decoder(self.size, self.channels), self.on_error)
        readable = torch.tensor(sorted(lazy.readable_among(train.label.tolist())), dtype=trained.dtype)
        if len(readable) in (0, len(trained)):
            return splits
        lost = trained[~torch.isin(trained, readable)].tolist()
        logger.warning("data.shards: left out %d labels without a readable training image: %s", len(lost), lost[:20])
        return {split: shards.only(torch.isin(shards.label, readable)) for split, shards in splits.items()}

    def labelled(self, shards: Shards) -> Shards:
        """The images with readable labels. Raises ConfigError if only some have a label, or if no image is left."""
        there = f"left out {shards.left_out}" if shards.left_out.kinds else ""
        if not len(shards):
            raise ConfigError(
                f"data.shards: {shards.paths[0]} holds no images{there and f', {there}'}; an image is a member such as "
                "KEY.png"
            )
        if there:
            logger.warning("data.shards: read %s images, %s", f"{len(shards):,}", there)
        bad = shards.label == BAD_LABEL
        if bad.any():
            first, count = shards.name(int(bad.nonzero()[0])), int(bad.sum())
            if self.on_error == "raise" or bad.all():
                raise ConfigError(
                    f"data.shards: {count} images, such as {first}, have a label that is not a number from 0 to "
                    f"{MOST_CLASSES - 1:,}, in KEY.cls or as label in KEY.json; repair them, or set data.on_error=skip"
                )
            logger.warning("data.on_error=skip: left out %d images with an unreadable label, such as %s", count, first)
            shards = shards.only(~bad)
        none = shards.label == NO_LABEL
        if none.any() and not none.all():
            first = shards.name(int(none.nonzero()[0]))
            raise ConfigError(
                f"data.shards: {int(none.sum())} of {len(shards)} images, such as {first}, have no label; give all of "
                "them one (KEY.cls, or label in KEY.json) or none"
            )
        return shards

    def splits_by_hash(self, shards: Shards) -> dict[str, Shards]:
        """Holds out test_fraction of the images by their hash; at least one, and never all."""
        if len(shards.hash.unique()) == 1:
            raise ConfigError("data.shards: a single image cannot be split; give at least two, or data.test_shards")
        test = held_out_by_hash(shards.hash, shards.label, self.test_fraction)
        if not test.any():
            raise ConfigError(
                "data.shards: no image can be held out, as each label has a single one; give data.test_shards"
            )
        return {"train": shards.only(~test), "test": shards.only(test)}

    @property
    def division(self) -> str:
        if self.test_shards is not None:
            return "data.test_shards"
        return f"about {self.test_fraction:g} held out by a hash of the names"

    @functools.cached_property
    def _captions(self) -> Captions | None:
        if all(bool((shards.text_size < 0).all()) for shards in self.splits.values()):
            return None
        if self.on_error == "skip":
            raise ConfigError(
                "data.on_error=skip replaces an unreadable image by the next one, whose caption is another; repair the "
                "images and set data.on_error=raise"
            )
        found = {split: [shards.caption(i) for i in range(len(shards))] for split, shards in self.splits.items()}
        return with_warning(found, lambda split, index: self.splits[split].name(index), "data.shards")

    def captions(self, split: str) -> list[str] | None:
        return None if self._captions is None else self._captions[split]

    def load(self, split: str) -> Examples:
        shards = self.splits[split]
        labels = torch.searchsorted(self.numbers, shards.label) if len(self.numbers) else None
        examples = LazyImages(shards, labels, Decoder(self.size, self.channels), self.on_error)
        return WithFlips(examples) if self.horizontal_flip and split == "train" else examples


def check_one_split(paths: list[Path]) -> None:
    """ConfigError for shards that are named after several splits, as in train-00.tar and val-00.tar."""
    named: dict[str, Path] = {}
    for path in paths:
        if kind := split_of(re.split(r"[-_.\d]", path.name)[0]):
            named.setdefault(kind, path)
    if len(named) > 1:
        shown = " and ".join(path.name for path in named.values())
        raise ConfigError(f"data.shards: {shown} are of different splits; name those to hold out in data.test_shards")
