"""The positions of the examples in a tar of WebDataset's layout, read header by header."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from diffusion_fw.data.formats.image_files import LARGEST_MEMBER, SUFFIXES, LeftOut, inner_path, kind_of
from diffusion_fw.data.split import uniform_hash
from diffusion_fw.files import open_regular
from diffusion_fw.registry import ConfigError

BLOCK = 512
LONGEST_NAME = 1 << 16
"""In bytes, of a header that holds a long name."""
LARGEST_LABEL = 1 << 20
"""In bytes, of a .cls or .json."""
NO_TEXT = -1
MOST_CLASSES = 1 << 16
NO_LABEL, BAD_LABEL = -1, -2
NOT_REGULAR = -1
FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class Member(NamedTuple):
    """A member of a tar; size is NOT_REGULAR for links, sparse files and other members without content of their own."""

    name: str
    start: int
    size: int


def members(file: BinaryIO) -> Iterator[Member]:
    """The members of an uncompressed tar (ustar, GNU, pax); only the headers are read.

    The standard library's own loop trusts sizes and ends silently if a tar is cut between two members. This one walks
    the headers itself and uses the library to parse each. Raises ValueError for a bad header or a missing end.
    """
    length = file.seek(0, 2)
    position, name, size, sparse = 0, "", None, False
    while True:
        file.seek(position)
        block = file.read(BLOCK)
        if block == bytes(BLOCK):
            return
        if len(block) < BLOCK and position:
            raise ValueError(f"it ends after {length:,} bytes without an end mark, so it is cut off")
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ValueError(f"no tar header at byte {position:,} ({error})") from None
        start = position + BLOCK
        stated = header.size if size is None else size
        if stated < 0 or header.type == tarfile.GNUTYPE_SPARSE:
            raise ValueError(f"the header at byte {position:,} is of a sparse file or states a negative size")
        hollow = header.type in tarfile.SUPPORTED_TYPES and header.type not in FILES
        has_content = not hollow or header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        position = start + (-(-stated // BLOCK) * BLOCK if has_content else 0)
        if position > length:
            raise ValueError(f"it ends after {length:,} bytes inside {header.name[:100]!r}, so it is cut off")
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            if stated > LONGEST_NAME:
                raise ValueError(f"a name's header takes {stated:,} bytes, more than {LONGEST_NAME:,}")
            content = file.read(stated)
            if header.type == tarfile.GNUTYPE_LONGNAME:
                name = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
            else:
                records = pax_records(content)
                name = records.get("path", name)
                size = int(records["size"]) if "size" in records else size
                sparse = any(keyword.startswith("GNU.sparse") for keyword in records)
        elif header.type not in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
            regular = header.type in FILES and not sparse
            yield Member(name or header.name, start, stated if regular else NOT_REGULAR)
            name, size, sparse = "", None, False


def pax_records(content: bytes) -> dict[str, str]:
    """The lines "length keyword=value" of an extended header (POSIX.1-2001)."""
    records, position = {}, 0
    while position < len(content):
        space = content.find(b" ", position, position + 20)
        end = position + int(content[position:space] or b"0") if space > 0 else 0
        if end <= space or content[end - 1 : end] != b"\n":
            raise ValueError("an extended header is damaged")
        keyword, _, value = content[space + 1 : end - 1].decode("utf-8", "surrogateescape").partition("=")
        records[keyword] = value
        position = end
    return records


def parts(name: str) -> tuple[str, str, str]:
    """The key of a member's example in WebDataset's layout, its name without the last suffix, and that suffix.

    The key ends before the first dot of the last part: (a/x, a/x.left, .png) for a/x.left.png. Empty for hidden files.
    """
    folder, slash, base = name.rpartition("/")
    key, _, fields = base.partition(".")
    stem, dot, suffix = base.rpartition(".") if fields else (base, "", "")
    return (folder + slash + key, folder + slash + stem, dot + suffix.lower()) if key else ("", "", "")


def read_label(content: bytes, suffix: str) -> int:
    """The class number in a .cls or under "label" in a .json; NO_LABEL if the .json has none, else BAD_LABEL."""
    try:
        value = int(content.decode()) if suffix == ".cls" else json.loads(content).get("label")
    except (ValueError, AttributeError, RecursionError):
        return BAD_LABEL
    if value is None:
        return NO_LABEL
    return value if type(value) is int and 0 <= value < MOST_CLASSES else BAD_LABEL


def index(path: Path) -> dict[str, Tensor]:
    """All images of one shard in the order of the tar: offset int64, size and label int32, hash float64, each (n,).

    text_offset int64 and text_size int32 are the place of the image's caption, KEY.txt, and NO_TEXT without one.

    An image KEY.png is one of WebDataset's examples. Where an example has no such image, those with more dots, such as
    KEY.001.png, are examples of their own; otherwise they are left out. The label stands beside the image under its
    whole name (KEY.001.cls), or else under the key. The hash depends on the name of the shard and that of the image
    without its suffix. left_out (m,) is JSON, as uint8: other members by kind, how many and the first. Raises
    ConfigError for a damaged tar.
    """
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    texts: dict[str, tuple[int, int]] = {}
    left_out = LeftOut()
    try:
        with open_regular(path) as file:
            for name, start, size in members(file):
                key, stem, suffix = parts(name)
                if suffix in SUFFIXES:
                    if stem in images:
                        raise ValueError(f"two images have the key {stem[:100]!r}")
                    images[stem] = key, start, min(size, LARGEST_MEMBER + 1)
                elif suffix in (".cls", ".json"):
                    if suffix == ".cls" or stem not in labels:
                        file.seek(start)
                        fits = 0 <= size <= LARGEST_LABEL
                        labels[stem] = read_label(file.read(size), suffix) if fits else BAD_LABEL
                elif suffix == ".txt" and size != NOT_REGULAR:
                    texts[stem] = start, min(size, LARGEST_MEMBER)
                elif size != NOT_REGULAR:
                    left_out.add(kind_of(inner_path(name)) or "of other names", name)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"data.shards: {path} is not a whole uncompressed tar: {error}; get it again, or unpack a .tar.gz to .tar, "
            "since examples are read by their position"
        ) from None
    for stem, (key, _, _) in list(images.items()):
        if key != stem and key in images:
            left_out.add("images beside that of their example", stem)
            del images[stem]
    used = {name for stem, (key, _, _) in images.items() for name in (stem, key)}
    for stem in sorted(labels.keys() - used):
        left_out.add("labels without an image", stem)
    for stem in sorted(texts.keys() - used):
        left_out.add(".txt", stem)
    captions = [texts.get(stem, texts.get(key, (NO_TEXT, NO_TEXT))) for stem, (key, _, _) in images.items()]
    written = torch.tensor(captions, dtype=torch.int64).view(-1, 2)
    places = torch.tensor([place for _, *place in images.values()], dtype=torch.int64).view(-1, 2)
    hashes = [uniform_hash(PurePosixPath(path.name, stem.lstrip("/"))) for stem in images]
    found = [labels.get(stem, labels.get(key, NO_LABEL)) for stem, (key, _, _) in images.items()]
    return {
        "offset": places[:, 0].contiguous(),
        "size": places[:, 1].int(),
        "label": torch.tensor(found, dtype=torch.int32),
        "hash": torch.tensor(hashes, dtype=torch.float64),
        "text_offset": written[:, 0].contiguous(),
        "text_size": written[:, 1].int(),
        "left_out": torch.tensor(list(json.dumps(left_out.kinds).encode()), dtype=torch.uint8),
    }
