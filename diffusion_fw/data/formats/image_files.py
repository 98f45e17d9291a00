"""The image files of a folder or a zip, read by relative path."""

from __future__ import annotations

import functools
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from diffusion_fw.files import open_regular
from diffusion_fw.registry import ConfigError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
LARGEST_MEMBER = 1 << 28
"""In bytes when unpacked. Larger members are refused: no image needs more, but a zip bomb does."""


class ImageFiles(Protocol):
    """Image files under one root."""

    def names(self) -> dict[str, int]:
        """The sorted paths of all images, relative to the root, and the size of each in bytes."""
        ...

    def read(self, name: str) -> bytes:
        """The content of one file. Any exception means that it cannot be read."""
        ...


def is_image(name: str) -> bool:
    """Whether the suffix is that of an image. Hidden files (.DS_Store, __MACOSX) are not images."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


@dataclass(frozen=True)
class Folder:
    """The image files of a folder and its sub-folders; links are followed."""

    root: Path

    def names(self) -> dict[str, int]:
        found = {}
        seen = set()
        for folder, subfolders, files in os.walk(self.root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link to a parent folder would never end
                subfolders.clear()
                continue
            seen.add(real)
            for path in (Path(folder, file) for file in files):
                name = path.relative_to(self.root).as_posix()
                if is_image(name) and path.is_file():
                    found[name] = path.stat().st_size
        return dict(sorted(found.items()))

    def read(self, name: str) -> bytes:
        with open_regular(self.root / name) as file:
            content = file.read(LARGEST_MEMBER + 1)
        if len(content) > LARGEST_MEMBER:
            raise ValueError(f"it has more than {LARGEST_MEMBER:,} bytes")
        return content


@dataclass(frozen=True)
class Zip:
    """The image files of a zip, unpacked in memory one at a time: no member's name becomes a path on disk."""

    path: Path
    version: tuple[int, int, int]
    """Of the file that is read."""

    def names(self) -> dict[str, int]:
        try:
            members = self.opened().infolist()
        except (OSError, zipfile.BadZipFile) as error:
            raise ConfigError(f"data.path: {self.path} is not a folder and cannot be read as a zip: {error}") from None
        found = {member.filename: member.file_size for member in members if not member.is_dir()}
        return {name: size for name, size in sorted(found.items()) if is_image(name)}

    def read(self, name: str) -> bytes:
        archive = self.opened()
        size = archive.getinfo(name).file_size
        if size > LARGEST_MEMBER:
            raise ValueError(f"it unpacks to {size:,} bytes, more than {LARGEST_MEMBER:,}")
        return archive.read(name)

    def opened(self) -> zipfile.ZipFile:
        return _open(self.path, self.version, os.getpid())


@functools.lru_cache(maxsize=4)
def _open(path: Path, version: tuple[int, int, int], process: int) -> zipfile.ZipFile:
    """One handle per process: a worker that inherited its parent's would share its position in the file.

    A file that was written since is opened again.
    """
    return zipfile.ZipFile(open_regular(path))
