"""What made a file of samples: written into PNG and npz files, and read by ``python -m diffusion_fw.provenance FILE``.

A record is a flat mapping of a few names to numbers and short texts. A PNG has it as JSON in a tEXt chunk, an npz file
as JSON in the array ``provenance``, a single text. Pixels and arrays are as without it. Reading decodes no pixels,
unpickles nothing and reads a bounded number of bytes, so that a file may be anyone's.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from diffusion_fw.files import atomic_write, open_regular

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

Record = Mapping[str, str | int | float | bool | None]

KEYWORD = "diffusion_fw"
ARRAY = "provenance"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = len(SIGNATURE) + 25
"""Bytes before the first chunk that may follow a PNG's header."""
LARGEST = 1 << 16
"""Bytes of a record; ours have some hundreds."""
MOST_CHUNKS = 10_000
NONE = "no provenance: the file does not say what made it"

ELSEWHERE = ("checkpoint", "device", "batch_size", "num_samples", "npz", "provenance", "explain")
"""Keys that don't change a sample, or that the record states by itself."""


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of what a config says about the samples: equal for two commands that draw them in the same way."""
    content = {key: value for key, value in config.items() if key not in ELSEWHERE}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()


def text(record: Record) -> str:
    """A record as JSON in ASCII."""
    return json.dumps(dict(record))


def png_info(record: Record) -> PngInfo:
    """What PIL writes into a PNG by ``image.save(..., pnginfo=...)``."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(KEYWORD, text(record))
    return info


def stamp(path: Path, record: Record) -> Path:
    """Write the record into a PNG file that is there already; its other content stays as it is."""
    content = path.read_bytes()
    chunk = b"tEXt" + KEYWORD.encode() + b"\0" + text(record).encode()
    framed = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    with atomic_write(path) as file:
        file.write(content[:HEADER] + framed + content[HEADER:])
    return path


def read(path: Path) -> dict[str, Any] | None:
    """The record of a PNG or npz file; None for a file without.

    Raises ValueError for a damaged record, and OSError for a file that cannot be read.
    """
    with open_regular(path) as file:
        start = file.read(len(SIGNATURE))
        file.seek(0)
        if start == SIGNATURE:
            found = _of_png(file)
        elif start[:2] == b"PK":
            found = _of_npz(file)
        else:
            raise ValueError("it is neither a PNG nor an npz file")
    if found is None:
        return None
    try:
        record = json.loads(found)
    except (ValueError, RecursionError):
        raise ValueError("its record is damaged") from None
    scalars = (str, int, float, bool, type(None))
    if not isinstance(record, dict) or not all(isinstance(value, scalars) for value in record.values()):
        raise ValueError("its record is damaged")
    return record


def _of_png(file: BinaryIO) -> bytes | None:
    """The text of our chunk; other chunks are skipped unread."""
    file.seek(len(SIGNATURE))
    for _ in range(MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return None
        size = int.from_bytes(head[:4], "big")
        if head[4:] == b"tEXt" and size <= LARGEST:
            content = file.read(size)
            keyword, _, value = content.partition(b"\0")
            if keyword == KEYWORD.encode():
                if file.read(4) != zlib.crc32(head[4:] + content).to_bytes(4, "big"):
                    raise ValueError("its record is damaged")
                return value
            file.seek(4, io.SEEK_CUR)
        else:
            file.seek(size + 4, io.SEEK_CUR)
    return None


def _of_npz(file: BinaryIO) -> bytes | None:
    """The text of our array: a single one, whose header is checked before it is read."""
    try:
        with zipfile.ZipFile(file) as archive:
            if f"{ARRAY}.npy" not in archive.namelist():
                return None
            with archive.open(f"{ARRAY}.npy") as member:
                content = io.BytesIO(member.read(4 * LARGEST))
        version = np.lib.format.read_magic(content)
        if version != (1, 0):
            raise ValueError(version)
        shape, _, dtype = np.lib.format.read_array_header_1_0(content)
        if shape != () or dtype.kind != "U" or dtype.itemsize > 4 * LARGEST:
            raise ValueError(dtype)
        return str(np.frombuffer(content.read(dtype.itemsize), dtype=dtype)[0]).encode()
    except (
        OSError,
        EOFError,
        IndexError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ):
        raise ValueError("it is damaged, or its record is") from None


def describe(path: Path) -> tuple[bool, str]:
    """Whether the file has a record, and one line about it."""
    try:
        record = read(path)
    except (OSError, ValueError, MemoryError) as error:
        return False, f"cannot be read: {getattr(error, 'strerror', None) or error}"
    if record is None:
        return False, NONE
    return True, " ".join(f"{_plain(key)}={_plain(json.dumps(value).strip(chr(34)))}" for key, value in record.items())


def _plain(value: str) -> str:
    """A text that cannot change the terminal on which it is printed."""
    return value if value.isprintable() and " " not in value else repr(value)


def files_of(place: Path) -> Iterator[Path]:
    """The file, or the PNG and npz files of a folder and its folders in the order of their names."""
    if not place.is_dir():
        yield place
        return
    yield from sorted(path for path in place.rglob("*") if path.suffix in (".png", ".npz") and path.is_file())


def main(arguments: Sequence[str]) -> int:
    """Print a line for each file; 0 if each has a record, otherwise 1."""
    if not arguments or any(argument.startswith("-") for argument in arguments):
        print("python -m diffusion_fw.provenance FILE...: what made PNG and npz files, or those of folders")
        return 2
    complete = True
    for place in map(Path, arguments):
        found = False
        for path in files_of(place):
            has, line = describe(path)
            print(f"{_plain(str(path))}: {line}")
            found, complete = True, complete and has
        if not found:
            print(f"{_plain(str(place))}: this folder has no PNG or npz files")
            complete = False
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
