"""Examples from image files, decoded once into memory or on each access."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from diffusion_fw.data.dataset import Batch, InMemory, evenly_spaced
from diffusion_fw.data.formats.decode import Budget, CorruptImageError, Decoder
from diffusion_fw.data.formats.image_files import ImageFiles
from diffusion_fw.registry import ConfigError

logger = logging.getLogger(__name__)

BLOCK = 1024
THREADS = min(os.cpu_count() or 1, 8)  # threads help with large photographs, but too many slow thumbnails down
SHOWN = 10
MEMORY = Budget(1 << 29)
"""The bytes of files that all threads together hold at once."""
HASHED_FILES, HASHED_BYTES = 10_000, 1 << 28
"""The most content that a fingerprint reads."""


T = TypeVar("T")


class EncodedImages(Protocol):
    """Image files, addressed by index."""

    key: ClassVar[str]
    """The config key that names them."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The name of one of them, for messages."""
        ...

    def read(self, index: int) -> bytes:
        """The content of one of them. Any exception means that it cannot be read."""
        ...

    def size_of(self, index: int) -> int:
        """The number of bytes of its content."""
        ...


@dataclass(frozen=True)
class NamedImages:
    """Files under one root, addressed by their position in ``paths``."""

    files: ImageFiles
    paths: list[str]
    sizes: list[int]
    """Of the files, in bytes."""

    key: ClassVar[str] = "data.path"

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def read(self, index: int) -> bytes:
        return self.files.read(self.paths[index])

    def size_of(self, index: int) -> int:
        return self.sizes[index]


@dataclass(frozen=True)
class LazyImages:
    """Images that are decoded on each access.

    With on_error="skip", an unreadable image is replaced by the next readable one and its label, so that the same
    indices still give the same examples. Each process logs an unreadable image once.
    """

    images: EncodedImages
    labels: Tensor | None
    decoder: Decoder
    on_error: Literal["raise", "skip"]
    unreadable: set[int] = field(init=False, repr=False, default_factory=set)
    """The indices found to be unreadable so far."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        wanted = range(len(self))
        found = [self.readable(wanted[index]) for index in torch.as_tensor(indices).tolist()]
        values = torch.stack([image for _, image in found])
        return values, None if self.labels is None else self.labels[[index for index, _ in found]].long()

    def fingerprint(self) -> str:
        """A hash of the order, the sizes and the content of all files, of their labels and of how they are decoded.

        Where there are more than HASHED_FILES or HASHED_BYTES, the content is that of evenly spaced files, as many as
        fit. Names and places of files don't count.
        """
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        sizes = [self.images.size_of(index) for index in range(len(self))]
        labels = None if self.labels is None else self.labels.tolist()
        content = hashlib.sha256(repr((sizes, labels, self.decoder, self.on_error)).encode())
        most = min(HASHED_FILES, len(self) * HASHED_BYTES // max(sum(sizes), 1))
        with ThreadPoolExecutor(THREADS) as pool:
            for digest in pool.map(self.digest, evenly_spaced(len(self), max(most, 1))):
                content.update(digest)
        return content.hexdigest()[:16]

    def digest(self, index: int) -> bytes:
        """The hash of the content of one file; that of nothing if it cannot be read."""
        try:
            with MEMORY.take(self.images.size_of(index)):
                return hashlib.sha256(self.images.read(index)).digest()
        except Exception:  # a corrupt archive can raise anything; decoding will report it
            return hashlib.sha256().digest()

    def decode(self, index: int) -> Tensor:
        """One image. Raises CorruptImageError that names it."""
        with MEMORY.take(self.images.size_of(index)):
            try:
                return self.decoder(self.images.read(index))
            except Exception as error:  # a corrupt archive can raise anything
                raise CorruptImageError(f"{self.images.name(index)} ({error})") from error

    def readable_among(self, classes: Sequence[T]) -> set[T]:
        """Those of the images' classes of which at least one image is readable."""
        members: dict[T, list[int]] = {}
        for index, name in enumerate(classes):
            members.setdefault(name, []).append(index)
        with ThreadPoolExecutor(THREADS) as pool:
            found = pool.map(lambda indices: any(map(self.is_readable, indices)), members.values())
            return {name for name, readable in zip(members, found, strict=True) if readable}

    def is_readable(self, index: int) -> bool:
        try:
            self.decode(index)
        except CorruptImageError:
            return False
        return True

    def attempt(self, index: int) -> Tensor | CorruptImageError:
        """One image, or its error with on_error="skip". Raises ConfigError with on_error="raise"."""
        try:
            return self.decode(index)
        except CorruptImageError as error:
            if self.on_error == "raise":
                raise ConfigError(
                    f"{self.images.key}: {error} is not a readable image; repair or remove it, or train with "
                    "data.on_error=skip"
                ) from None
            return error

    def readable(self, index: int) -> tuple[int, Tensor]:
        """The first readable image from this index on, wrapping around at the end, and its index."""
        for candidate in itertools.chain(range(index, len(self)), range(index)):
            if candidate in self.unreadable:
                continue
            image = self.attempt(candidate)
            if isinstance(image, Tensor):
                return candidate, image
            self.unreadable.add(candidate)
            logger.warning(
                "data.on_error=skip: %s is not readable and is replaced by the next image (%d so far)",
                image,
                len(self.unreadable),
            )
        raise self.no_readable_image()

    def in_memory(self) -> InMemory:
        """All images, decoded now. Unreadable ones are left out and reported in one warning."""
        values = torch.empty(len(self), self.decoder.channels, self.decoder.size, self.decoder.size, dtype=torch.uint8)
        kept, errors = [], []
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, len(self), BLOCK):
                block = range(start, min(start + BLOCK, len(self)))
                for index, image in zip(block, pool.map(self.attempt, block), strict=True):
                    if isinstance(image, Tensor):
                        values[index] = image
                        kept.append(index)
                    else:
                        errors.append(image)
                        self.unreadable.add(index)
        if not kept:
            raise self.no_readable_image()
        if not errors:
            return InMemory(values, self.labels)
        shown = ", ".join(map(str, errors[:SHOWN])) + (", ..." if len(errors) > SHOWN else "")
        logger.warning("data.on_error=skip: skipped %d of %d images: %s", len(errors), len(self), shown)
        return InMemory(values[kept], None if self.labels is None else self.labels[kept])

    def no_readable_image(self) -> ConfigError:
        """The error if every image was skipped."""
        return ConfigError(
            f"{self.images.key}: none of {len(self)} images is readable; data.on_error=raise shows the first error"
        )
