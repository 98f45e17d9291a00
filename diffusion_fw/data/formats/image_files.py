"""The image files of a folder or a zip, read by relative path."""

from __future__ import annotations

import functools
import logging
import os
import stat
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from diffusion_fw.data.formats.decode import FORMATS
from diffusion_fw.files import open_regular
from diffusion_fw.registry import ConfigError

SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
LARGEST_MEMBER = 1 << 28
"""In bytes when unpacked. Larger members are refused: no image needs more, but a zip bomb does."""
MOST_SECOND_WAYS = 10_000
"""Links between folders can make the number of ways to one of them explode."""

logger = logging.getLogger(__name__)


@dataclass
class LeftOut:
    """What is no image, by its kind: how many there are, and the first of them."""

    kinds: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, kind: str, name: str, count: int = 1) -> None:
        before, first = self.kinds.get(kind, (0, name))
        self.kinds[kind] = before + count, first

    def __str__(self) -> str:
        """One line. Names are cut and escaped, as a stranger may have chosen them."""
        return ", ".join(f"{count:,} {kind} (such as {name[:100]!r})" for kind, (count, name) in self.kinds.items())


class ImageFiles(Protocol):
    """Image files under one root."""

    def names(self) -> tuple[dict[str, int], list[tuple[str, str]]]:
        """The sorted paths of the images below the root with their sizes in bytes, and other files with their kind."""
        ...

    def read(self, name: str) -> bytes:
        """The content of one file. Any exception means that it cannot be read."""
        ...


def inner_path(name: str) -> PurePosixPath:
    """The path of a file below the root; zips that Windows made may have backslashes between folders."""
    return PurePosixPath(name.replace("\\", "/").lstrip("/"))


def kind_of(path: PurePosixPath) -> str | None:
    """What a file is by its name, or None for an image. Hidden files (.DS_Store, __MACOSX) are not images."""
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return "hidden"
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return None
    return suffix if suffix[1:].isalnum() and len(suffix) < 12 else "of other names"


@dataclass(frozen=True)
class Folder:
    """The image files of a folder and its sub-folders; links are followed, but not back to a folder above."""

    root: Path

    def names(self) -> tuple[dict[str, int], list[tuple[str, str]]]:
        images, others = {}, []
        above: dict[Path, tuple[str, ...]] = {}
        ways: dict[str, str] = {}
        second: dict[str, str] = {}
        for name, subfolders, files in os.walk(self.root, followlinks=True, onerror=_refuse):
            folder = Path(name)
            real, parents = os.path.realpath(folder), above.get(folder.parent, ())
            here = folder.relative_to(self.root).as_posix()
            if real in parents:
                subfolders.clear()
                others.append((here, "links to a folder above"))
                continue
            if ways.setdefault(real, here) != here:
                second[here] = ways[real]
                if len(second) > MOST_SECOND_WAYS:
                    raise ConfigError(
                        f"data.path={self.root}: more than {MOST_SECOND_WAYS:,} links lead to known folders"
                    )
            above[folder] = (*parents, real)
            subfolders.sort()
            for path in (folder / file for file in files):
                name = path.relative_to(self.root).as_posix()
                kind, state = kind_of(inner_path(name)), _state(path)
                if kind is None and (state is None or not stat.S_ISREG(state.st_mode)):
                    kind = "links to nothing, pipes or devices"
                if kind is None and state is not None:
                    images[name] = state.st_size
                elif kind:
                    others.append((name, kind))
        if second:
            way, first = next(iter(second.items()))
            text = (
                "data.path=%s: %d folders are links to others that are read, such as %r to %r; their images count twice"
            )
            logger.warning(
                text,
                *(self.root, len(second), way[:100], first[:100]),
            )
        return dict(sorted(images.items())), sorted(others)

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

    def names(self) -> tuple[dict[str, int], list[tuple[str, str]]]:
        try:
            members = self.opened().infolist()
        except (OSError, zipfile.BadZipFile) as error:
            raise ConfigError(f"data.path: {self.path} is not a folder and cannot be read as a zip: {error}") from None
        images: dict[str, int] = {}
        others = []
        for member in members:
            name = member.filename
            if name.endswith(("/", "\\")):
                continue
            kind = "named twice" if name in images else kind_of(inner_path(name))
            if kind is None or kind == "named twice":
                # The last member of a name is the one that is read.
                images[name] = member.file_size
            if kind is not None:
                others.append((name, kind))
        return dict(sorted(images.items())), sorted(others)

    def read(self, name: str) -> bytes:
        archive = self.opened()
        size = archive.getinfo(name).file_size
        if size > LARGEST_MEMBER:
            raise ValueError(f"it unpacks to {size:,} bytes, more than {LARGEST_MEMBER:,}")
        return archive.read(name)

    def opened(self) -> zipfile.ZipFile:
        return _open(self.path, self.version, os.getpid())


def _refuse(error: OSError) -> None:
    raise ConfigError(f"data.path: {error.filename} cannot be listed: {error.strerror}; make it readable or remove it")


def _state(path: Path) -> os.stat_result | None:
    """The state of a file, or None for a link to nothing."""
    try:
        return path.stat()
    except OSError:
        return None


@functools.lru_cache(maxsize=4)
def _open(path: Path, version: tuple[int, int, int], process: int) -> zipfile.ZipFile:
    """One handle per process: a worker that inherited its parent's would share its position in the file.

    A file that was written since is opened again.
    """
    return zipfile.ZipFile(open_regular(path))
