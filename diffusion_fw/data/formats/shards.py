"""Tar shards: the files that a pattern names, the cached index of their images, and reading an image by position."""

from __future__ import annotations

import functools
import glob
import hashlib
import itertools
import logging
import os
import re
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from diffusion_fw import files
from diffusion_fw.data.formats import tar_index
from diffusion_fw.data.formats.image_examples import THREADS
from diffusion_fw.data.formats.image_files import LARGEST_MEMBER
from diffusion_fw.files import atomic_write
from diffusion_fw.registry import ConfigError

logger = logging.getLogger(__name__)

MOST_SHARDS = 1_000_000
RANGE = re.compile(r"\{(\d{1,12})\.\.(\d{1,12})\}")
COLUMNS = {"offset": torch.int64, "size": torch.int32, "label": torch.int32, "hash": torch.float64}
VERSION = 1
"""Of the cached index files; changing it invalidates them."""


def expand(patterns: str | Sequence[str], key: str) -> list[Path]:
    """The shards of paths, globs and ranges such as train-{0000..0009}.tar, in this order; those of a glob are sorted.

    Raises ConfigError for a pattern that matches no shard and for a shard that is named twice.
    """
    found: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        names = without_ranges(str(Path(pattern).expanduser()), key)
        shards = [path for name in names for path in matching(name)]
        missing = [path for path in shards if not path.is_file()]
        if missing or not shards:
            raise ConfigError(
                f"{key}={pattern}: no such file {(missing or [Path(pattern)])[0].absolute()}; give tar files as a "
                "list, a glob (train-*.tar) or a range (train-{0000..0009}.tar)"
            )
        found += shards
    if not found:
        raise ConfigError(f"{key}=[]: give at least one shard")
    repeated = len(found) - len({os.path.realpath(path) for path in found})
    if repeated:
        raise ConfigError(f"{key}={patterns}: {repeated} shards are named twice; name each once")
    return found


def matching(name: str) -> list[Path]:
    """The files of a glob, sorted; a name without wildcards stands for itself."""
    if not glob.has_magic(name):
        return [Path(name)]
    path = Path(name)
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def without_ranges(pattern: str, key: str) -> list[str]:
    """All names of a pattern with {first..last}; numbers are padded to the width of the first."""
    ranges = RANGE.findall(pattern)
    count = 1
    for first, last in ranges:
        count *= max(int(last) - int(first) + 1, 0)
    if not 0 < count <= MOST_SHARDS:
        raise ConfigError(f"{key}={pattern}: {count:,} shards; a range has 1 to {MOST_SHARDS:,}, the lower end first")
    texts = RANGE.split(pattern)[::3]
    numbers = [[str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)] for first, last in ranges]
    return [
        "".join(itertools.chain.from_iterable(itertools.zip_longest(texts, choice, fillvalue="")))
        for choice in itertools.product(*numbers)
    ]


@dataclass(frozen=True, eq=False)
class Shards:
    """The images of shards, addressed by index and read by seeking; shard, offset, size and label are columns (n,).

    They take 20 bytes per image, and the hash that decides the split 8 more.
    """

    paths: list[Path]
    marks: list[str]
    """For each path a mark that changes with its content."""
    shard: Tensor
    offset: Tensor
    size: Tensor
    label: Tensor
    hash: Tensor

    key: ClassVar[str] = "data.shards"

    @staticmethod
    def of(paths: list[Path]) -> Shards:
        """The index of these shards, from the cache for shards that have not changed."""
        from tqdm import tqdm

        with ThreadPoolExecutor(THREADS) as pool:
            bar = tqdm(pool.map(indexed, paths), total=len(paths), desc="indexing shards", leave=False, delay=1)
            tables = list(bar)
        columns = {name: torch.cat([table[name] for table in tables]) for name in COLUMNS}
        counts = torch.tensor([len(table["offset"]) for table in tables])
        shard = torch.repeat_interleave(torch.arange(len(paths), dtype=torch.int32), counts)
        return Shards(paths, [mark(path) for path in paths], shard, **columns)

    def __len__(self) -> int:
        return len(self.offset)

    def only(self, chosen: Tensor) -> Shards:
        """The images for which chosen (n,) is true."""
        columns = {name: getattr(self, name)[chosen] for name in ("shard", *COLUMNS)}
        return replace(self, **columns)

    def name(self, index: int) -> str:
        """The shard and the member, as its header states; a long name is cut."""
        path = self.paths[int(self.shard[index])]
        try:
            header = opened(path, os.getpid()).read(int(self.offset[index]) - tar_index.BLOCK, tar_index.BLOCK)
            return f"{path}: {tarfile.TarInfo.frombuf(header, 'utf-8', 'surrogateescape').name!r}"
        except (OSError, tarfile.HeaderError):
            return f"{path}: byte {int(self.offset[index]):,}"

    def read(self, index: int) -> bytes:
        size = int(self.size[index])
        if size < 0:
            raise ValueError("it is a link or another member without content of its own")
        if size > LARGEST_MEMBER:
            raise ValueError(f"it has more than {LARGEST_MEMBER:,} bytes")
        return opened(self.paths[int(self.shard[index])], os.getpid()).read(int(self.offset[index]), size)

    def fingerprint(self) -> str:
        names = [(path.name, text) for path, text in zip(self.paths, self.marks, strict=True)]
        content = hashlib.sha256(repr(names).encode(errors="replace"))
        for column in (self.shard, self.offset, self.size, self.label):
            content.update(column.numpy().tobytes())
        return content.hexdigest()


class Opened:
    """A file that is read at given positions and closed when it is no longer referenced."""

    def __init__(self, path: Path) -> None:
        self.file: BinaryIO = path.open("rb")

    def read(self, offset: int, size: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(size)

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


@functools.lru_cache(maxsize=64)
def opened(path: Path, process: int) -> Opened:
    """One handle per process: a worker that inherited its parent's would share its position in the file."""
    return Opened(path)


def mark(path: Path) -> str:
    """Size and modification time of a file."""
    state = path.stat()
    return f"{state.st_size} {state.st_mtime_ns}"


def indexed(path: Path) -> dict[str, Tensor]:
    """``tar_index.index``, cached by path, size and modification time; a damaged cache file is replaced."""
    key = hashlib.sha256(repr((VERSION, os.path.realpath(path), mark(path))).encode(errors="replace")).hexdigest()
    kept = files.default_cache() / "shards" / f"{key[:24]}.safetensors"
    try:
        table = load(kept.read_bytes())
        if {name: column.dtype for name, column in table.items()} != COLUMNS:
            raise ValueError("it holds other columns")
        return table
    except FileNotFoundError:
        pass
    except (OSError, SafetensorError, ValueError) as error:
        logger.warning("the cached index %s is damaged (%s); indexing the shard again", kept, error)
    table = tar_index.index(path)
    try:
        with atomic_write(kept) as file:
            file.write(save(table))
    except OSError as error:
        logger.warning("the index of %s could not be cached: %s", path, error)
    return table
