"""What files beside images say of them: a caption, and numbers."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.data.formats.image_files import ImageFiles, inner_path
from diffusion_fw.registry import ConfigError, printable

TABLES = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
"""Names of files with a row for each image of their folder and of those below it."""
FILE, TEXT = "file_name", "text"
"""The columns with the path of an image, from the folder of the table on, and with its caption."""
LONGEST_CAPTION = 1 << 16
"""In bytes."""
MOST_COLUMNS = 1000

logger = logging.getLogger(__name__)


@dataclass
class Descriptions:
    """Captions and numbers of images, by the names of the images."""

    captions: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, tuple[float, ...]] = field(default_factory=dict)
    columns: tuple[str, ...] | None = None
    """What the numbers are, in their order; None where no table was read."""


def beside(images: Collection[str], others: Sequence[tuple[str, str]]) -> list[str]:
    """Those of the other files, which are given with their kinds, that describe images: tables, and NAME.txt."""
    stems = {inner_path(name).with_suffix("") for name in images}
    found = []
    for name, kind in others:
        path = inner_path(name)
        text = path.suffix.lower() == ".txt" and path.with_suffix("") in stems
        if kind != "hidden" and (path.name in TABLES or text):
            found.append(name)
    return found


def read(files: ImageFiles, images: Collection[str], described_by: Sequence[str], key: str) -> Descriptions:
    """What the files ``described_by``, as ``beside`` finds them, say of the images.

    A caption in a table counts before that in NAME.txt. Raises ConfigError that names the file and the line, and
    begins with the config key of the data.
    """
    names = {inner_path(name): name for name in images}
    stems: dict[PurePosixPath, list[str]] = {}
    for path, name in names.items():
        stems.setdefault(path.with_suffix(""), []).append(name)
    result = Descriptions()
    rows: dict[str, str] = {}
    absent: list[str] = []
    for file in (name for name in described_by if inner_path(name).name in TABLES):
        folder = inner_path(file).parent
        for place, row in _rows(_text(files, file, key), file, key):
            given = row.pop(FILE, None)
            if not isinstance(given, str) or not given:
                raise ConfigError(f"{key}: {place} has no {FILE}, the path of an image from the folder of this file on")
            image = names.get(folder / inner_path(given))
            if image is None:
                absent.append(f"{place}: {given:.100}")
                continue
            if image in rows:
                raise ConfigError(f"{key}: {place} and {rows[image]} are both of {given:.100}; leave one out")
            rows[image] = place
            if (caption := row.pop(TEXT, None)) is not None:
                if not isinstance(caption, str) or len(caption.encode(errors="replace")) > LONGEST_CAPTION:
                    raise ConfigError(f"{key}: {place}: {TEXT} must be a text of at most {LONGEST_CAPTION:,} bytes")
                result.captions[image] = caption.strip()
            _add_numbers(result, image, row, place, key)
    if absent:
        logger.warning("%s: %d rows are of no image, such as %s", key, len(absent), printable(absent[0]))
    for file in (name for name in described_by if inner_path(name).name not in TABLES):
        text = _text(files, file, key, LONGEST_CAPTION)
        for image in stems[inner_path(file).with_suffix("")]:
            result.captions.setdefault(image, text.strip())
    return result


Captions = dict[str, list[str]]
"""The captions of the examples of each split, "" for one without."""


def with_warning(captions: Captions, name: Callable[[str, int], str], key: str) -> Captions | None:
    """The captions, with one warning that counts the missing ones; None if none is there.

    ``name(split, index)`` is that of an example.
    """
    missing = [(split, index) for split, texts in captions.items() for index, text in enumerate(texts) if not text]
    if len(missing) == sum(map(len, captions.values())):
        return None
    if missing:
        first = printable(name(*missing[0]))
        logger.warning("%s: %d images have no caption, such as %s; they are told none", key, len(missing), first)
    return captions


def numbers_of(names: Sequence[str], known: Descriptions, key: str) -> Tensor | None:
    """The numbers float32 (N, D) of images; None without. Raises ConfigError for an image without."""
    if not known.columns:
        return None
    missing = [name for name in names if name not in known.numbers]
    if missing:
        raise ConfigError(
            f"{key}: {len(missing)} images, such as {missing[0]:.100}, have no numbers {', '.join(known.columns)}; "
            "give each image a row"
        )
    return torch.tensor([known.numbers[name] for name in names], dtype=torch.float32)


def _text(files: ImageFiles, name: str, key: str, most: int | None = None) -> str:
    """The content of a file as text, of at most ``most`` bytes."""
    try:
        content = files.read(name)
        if most is not None and len(content) > most:
            raise ValueError(f"it has more than {most:,} bytes")
        return content.decode("utf-8-sig")
    except Exception as error:  # a corrupt archive can raise anything
        raise ConfigError(f"{key}: {name:.100} cannot be read: {error}; it must be text in UTF-8") from None


def _rows(content: str, file: str, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table as dicts, each with its file and line."""
    if file.endswith(".csv"):
        yield from _csv_rows(content, file, key)
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{key}: {place} is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{key}: {place} is no JSON object; it must be like {{{FILE!r}: ..., {TEXT!r}: ...}}")
        yield place, row


def _csv_rows(content: str, file: str, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        header = next(reader, [])
        if FILE not in header or len(set(header)) < len(header):
            raise ConfigError(
                f"{key}: {file}:1 must name the columns, once each, and {FILE} among them; it is {header[:20]}"
            )
        for values in reader:
            if not values:
                continue
            if len(values) != len(header):
                raise ConfigError(
                    f"{key}: {file}:{reader.line_num} has {len(values)} values, but the header has {len(header)}; put "
                    "a text with commas into quotes"
                )
            yield f"{file}:{reader.line_num}", dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise ConfigError(f"{key}: {file}:{reader.line_num} is no CSV: {error}") from None


def _add_numbers(result: Descriptions, image: str, row: Mapping[str, Any], place: str, key: str) -> None:
    """The columns of a row that are numbers; which they are, the first row decides."""
    numbers = {column: value for column in row if (value := _number(row[column])) is not None}
    if result.columns is None:
        if len(numbers) > MOST_COLUMNS:
            raise ConfigError(f"{key}: {place} has {len(numbers):,} numbers, more than {MOST_COLUMNS:,}")
        result.columns = tuple(sorted(numbers))
        others = sorted(row.keys() - numbers.keys())
        if others:
            logger.warning("%s: %s has columns that are no numbers and not read: %s", key, place,
                           printable(", ".join(others)))  # fmt: skip
    for column in result.columns:
        if column not in numbers:
            raise ConfigError(
                f"{key}: {place}: {column} must be a number, as in the first row, but is {row.get(column)!r:.100}"
            )
    if result.columns:
        result.numbers[image] = tuple(numbers[column] for column in result.columns)


def _number(value: Any) -> float | None:
    """A finite number, or the text of one; None for anything else."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
