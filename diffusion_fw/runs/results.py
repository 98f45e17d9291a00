"""Result lines: one JSON object for each number that an evaluation measured, with all that it depends on."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import filelock

from diffusion_fw.files import open_regular, open_to_append
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.os_errors import log_os_errors

NAME = "results.jsonl"
FORMAT = 1
DIGEST = "sha256"
LARGEST_LINE = 1 << 22
LARGEST_FILE = 1 << 28


def digest(line: Mapping[str, Any]) -> str:
    """The hash of a line's other values; a line whose hash is another was changed after it was written."""
    values = {key: value for key, value in line.items() if key != DIGEST}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sealed(line: Mapping[str, Any]) -> dict[str, Any]:
    """The line with its format and its hash."""
    whole = {"format": FORMAT, **line}
    # As it is read again: tuples are lists in JSON.
    whole = json.loads(json.dumps(_finite(whole)))
    return {**whole, DIGEST: digest(whole)}


def _finite(value: Any) -> Any:
    """The value with null for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append(folder: Path, lines: Iterable[Mapping[str, Any]]) -> Path:
    """Append sealed lines to results.jsonl in ``folder``, which is made; several processes may do so at once."""
    path = folder / NAME
    text = "".join(json.dumps(line) + "\n" for line in lines)
    with log_os_errors(f"writing {path}", "the result is in the run's own folder"):
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / f".{NAME}.lock", timeout=60), open_to_append(path) as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    return path


def read_lines(given: str) -> list[dict[str, Any]]:
    """The lines of a results.jsonl or an evaluation.json, that of FILE:NUMBER (from 1), or the line that is given.

    Raises ConfigError for what is none of these.
    """
    if given.lstrip().startswith("{"):
        return [_line(given, "the line")]
    path, _, number = given.rpartition(":")
    if not (path and number.isdigit() and not Path(given).exists()):
        path, number = given, ""
    try:
        with open_regular(Path(path)) as file:
            text = file.read(LARGEST_FILE).decode()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if Path(path).suffix == ".json":
        whole = _line(text, path)
        found = whole.get("results")
        rows = [json.dumps(item) for item in found] if isinstance(found, list) else [text]
    else:
        rows = [row for row in text.splitlines() if row.strip()]
    if number:
        if not 1 <= int(number) <= len(rows):
            raise ConfigError(f"{given}: {path} has the lines 1 to {len(rows)}")
        rows = [rows[int(number) - 1]]
    if not rows:
        raise ConfigError(f"{path}: it holds no result")
    return [_line(row, path) for row in rows]


def _line(text: str, where: str) -> dict[str, Any]:
    try:
        line = json.loads(text) if len(text) <= LARGEST_FILE else None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: it is no line of JSON: {str(error)[:200]}") from None
    if not isinstance(line, dict):
        raise ConfigError(f"{where}: it is no result, but {type(line).__name__}")
    return line
