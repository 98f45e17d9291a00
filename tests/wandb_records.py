"""What is in the file of an offline W&B run, by wandb's own messages: its run, config, history, summary and artifacts.

The file is a log in LevelDB's format. wandb 0.31 has its reader in Go alone, out of Python's reach.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

HEADER = b":W&B\xe1\xbe\x00"
BLOCK = 1 << 15
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def messages(path: Path) -> Iterator[bytes]:
    """The records of a file, each with its checksum compared."""
    content = path.read_bytes()
    assert content[: len(HEADER)] == HEADER
    place, parts = len(HEADER), b""
    while place < len(content):
        if (left := BLOCK - place % BLOCK) < 7:
            place += left
            continue
        checksum, length, kind = struct.unpack("<IHB", content[place : place + 7])
        part = content[place + 7 : place + 7 + length]
        assert zlib.crc32(part, zlib.crc32(bytes([kind]))) == checksum
        place += 7 + length
        parts += part
        if kind in (FULL, LAST):
            yield parts
            parts = b""
    assert not parts


@dataclass
class Records:
    """The records of one run."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    def values(self, name: str) -> list[tuple[int, Any]]:
        """(step, value) wherever a name was logged."""
        return [(row["trainer/global_step"], row[name]) for row in self.history if name in row]


def _put(where: dict[str, Any], item: Any) -> None:
    *path, last = item.nested_key or [item.key]
    for part in path:
        where = where.setdefault(part, {})
    where[last] = json.loads(item.value_json)


def read(path: Path) -> Records:
    """The records of a file."""
    found = Records()
    for content in messages(path):
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        record.ParseFromString(content)
        match record.WhichOneof("record_type"):
            case "run":
                found.run = record.run
                for item in record.run.config.update:
                    _put(found.config, item)
            case "config":
                for item in record.config.update:
                    _put(found.config, item)
            case "history":
                row: dict[str, Any] = {}
                for item in record.history.item:
                    _put(row, item)
                found.history.append(row)
            case "summary":
                for item in record.summary.update:
                    _put(found.summary, item)
            case "metric":
                found.metrics[record.metric.name or record.metric.glob_name] = record.metric
            case "artifact":
                found.artifacts[record.artifact.type] = record.artifact
            case "exit":
                found.exit_code = record.exit.exit_code
    return found


def of(folder: Path, seconds: float = 60.0) -> Records:
    """The records of the only run in the folder of a run that has ended; wandb's service may still be writing them."""
    (path,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(AssertionError, struct.error):
            found = read(path)
            if found.exit_code is not None:
                return found
        assert time.monotonic() < end, f"{path} has no whole record of how the run ended"
        time.sleep(0.05)


def isolate(patch: Any, folder: Path) -> None:
    """No key, no settings of the user, and what wandb keeps outside of a run's folder in ``folder``."""
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        patch.delenv(variable)
    patch.setenv("NETRC", str(folder / "netrc"))
    for kind in ("CONFIG", "DATA", "CACHE"):
        patch.setenv(f"WANDB_{kind}_DIR", str(folder / kind.lower()))
