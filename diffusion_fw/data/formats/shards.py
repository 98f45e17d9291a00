"""Tar shards: the files that a pattern names, the cached index of their images, and reading an image by position."""

from __future__ import annotations

import functools
import glob
import hashlib
import itertools
import json
import os
import re
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, ClassVar

import torch
from torch import Tensor

from diffusion_fw import cache
from diffusion_fw.data.formats import tar_index
from diffusion_fw.data.formats.descriptions import LONGEST_CAPTION
from diffusion_fw.data.formats.image_examples import THREADS
from diffusion_fw.data.formats.image_files import LARGEST_MEMBER, LeftOut
from diffusion_fw.files import default_cache, open_regular, version, with_home
from diffusion_fw.registry import ConfigError

MOST_SHARDS = 1_000_000
RANGE = re.compile(r"\{(\d{1,12})\.\.(\d{1,12})\}")
COLUMNS = {
    **{"offset": torch.int64, "size": torch.int32, "label": torch.int32, "hash": torch.float64},
    **{"text_offset": torch.int64, "text_size": torch.int32},
}
VERSION = 3
"""Of the cached index files; changing it invalidates them."""


def expand(patterns: str | Sequence[str], key: str) -> list[Path]:
    """The shards of paths, globs and ranges such as train-{0000..0009}.tar, in this order; those of a glob are sorted.

    Raises ConfigError for a pattern that matches no shard and for a shard that is named twice.
    """
    found: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        names = without_ranges(str(with_home(pattern)), key)
        shards = [path for name in names for path in matching(name)]
        missing = [path for path in shards if not path.is_file()]
        if missing or not shards:
            first = (missing or [Path(pattern)])[0]
            what = "not a regular file" if first.exists() else "no such file"
            raise ConfigError(
                f"{key}={pattern}: {what} {first.absolute()}; give tar files as a "
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

    They take 20 bytes per image, the hash that decides the split 8 more, and the place of a caption 12.
    """

    paths: list[Path]
    versions: list[tuple[int, int, int]]
    """Of the files that were indexed."""
    left_out: LeftOut
    """Members that are no images."""
    shard: Tensor
    offset: Tensor
    size: Tensor
    label: Tensor
    hash: Tensor
    text_offset: Tensor
    text_size: Tensor

    key: ClassVar[str] = "data.shards"

    @staticmethod
    def of(paths: list[Path]) -> Shards:
        """The index of these shards, from the cache for shards that have not changed."""
        from tqdm import tqdm

        versions = [version(path) for path in paths]
        with ThreadPoolExecutor(THREADS) as pool:
            bar = tqdm(pool.map(indexed, paths), total=len(paths), desc="indexing shards", leave=False, delay=1)
            tables = list(bar)
        left_out = LeftOut()
        for path, table in zip(paths, tables, strict=True):
            for kind, (count, first) in json.loads(bytes(table["left_out"].tolist())).items():
                left_out.add(kind, f"{path.name}: {first}", count)
        columns = {name: torch.cat([table[name] for table in tables]) for name in COLUMNS}
        counts = torch.tensor([len(table["offset"]) for table in tables])
        shard = torch.repeat_interleave(torch.arange(len(paths), dtype=torch.int32), counts)
        return Shards(paths, versions, left_out, shard, **columns)

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
            header = self.opened(index).read(int(self.offset[index]) - tar_index.BLOCK, tar_index.BLOCK)
            return f"{path}: {tarfile.TarInfo.frombuf(header, 'utf-8', 'surrogateescape').name!r}"
        except (OSError, tarfile.HeaderError):
            return f"{path}: byte {int(self.offset[index]):,}"

    def size_of(self, index: int) -> int:
        return max(int(self.size[index]), 0)

    def read(self, index: int) -> bytes:
        size = int(self.size[index])
        if size < 0:
            raise ValueError("it is a link or another member without content of its own")
        if size > LARGEST_MEMBER:
            raise ValueError(f"it has more than {LARGEST_MEMBER:,} bytes")
        return self.opened(index).read(int(self.offset[index]), size)

    def caption(self, index: int) -> str:
        """The caption of one of them, "" without. Raises ConfigError that names the image."""
        size = int(self.text_size[index])
        if size < 0:
            return ""
        try:
            if size > LONGEST_CAPTION:
                raise ValueError(f"it has more than {LONGEST_CAPTION:,} bytes")
            content = self.opened(index).read(int(self.text_offset[index]), size)
            return content.decode("utf-8-sig").strip()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.key}: the caption of {self.name(index)} cannot be read: {error}; it must be text in UTF-8"
            ) from None

    def opened(self, index: int) -> Opened:
        shard = int(self.shard[index])
        return opened(self.paths[shard], self.versions[shard], os.getpid())


class Opened:
    """A file that threads read at given positions, and that is closed when it is no longer referenced."""

    def __init__(self, path: Path) -> None:
        self.file: BinaryIO = open_regular(path)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.file.fileno(), size, offset)

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


@functools.lru_cache(maxsize=64)
def opened(path: Path, version: tuple[int, int, int], process: int) -> Opened:
    """One handle per process; a file that was written since is opened again."""
    return Opened(path)


def indexed(path: Path) -> dict[str, Tensor]:
    """``tar_index.index``, cached for a file that has not been written since."""
    key = hashlib.sha256(repr((VERSION, os.path.realpath(path), version(path))).encode(errors="replace")).hexdigest()
    kept = default_cache() / "shards" / f"{key[:24]}.safetensors"
    return cache.cached(kept, lambda: tar_index.index(path), check_table)


def check_table(table: dict[str, Tensor]) -> None:
    """ValueError unless the table is one that ``tar_index.index`` returns."""
    if {name: column.dtype for name, column in table.items()} != {**COLUMNS, "left_out": torch.uint8}:
        raise ValueError("it holds other columns")
    if len({table[name].shape for name in COLUMNS}) != 1 or any(column.dim() != 1 for column in table.values()):
        raise ValueError("its columns differ in length")
