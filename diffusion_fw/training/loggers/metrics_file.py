"""metrics.csv: all logged values of a run, one row per record, complete whatever happens to the run or the file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from diffusion_fw.files import atomic_write, open_regular, open_to_append
from diffusion_fw.registry import ConfigError


class MetricsFile(Logger):
    """Appends a row and flushes it; rewrites the whole file if its columns or its size on the disk have changed.

    Raises OSError if the file cannot be written; the row is then kept and written with the next one.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._rows: list[dict[str, Any]] = []
        self._columns: list[str] = []
        self._size: int | None = None

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return os.fspath(self.path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the config is in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._rows.append({**metrics, "step": step})
        columns = sorted({*self._columns, *self._rows[-1]})
        if self._size is not None and columns == self._columns and self._size == self._size_on_disk():
            text = self._text(self._rows[-1:])
            with open_to_append(self.path) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            self._size += len(text)
            return
        self._columns, self._size = columns, None
        text = ",".join(columns).encode() + b"\r\n" + self._text(self._rows)
        with atomic_write(self.path) as file:
            file.write(text)
        self._size = len(text)

    def resume(self, step: int, state: Mapping[str, Any]) -> None:
        """Continue an existing file after ``step``: drop later rows and a half-written one."""
        try:
            with open_regular(self.path) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
                rows = [row for row in csv.DictReader(text) if None not in row.values() and None not in row]
            taken = [(int(row["step"]), row) for row in rows]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise ConfigError(f"{self.path} cannot be continued: {error}; move it away to begin a new one") from None
        self._rows = [{key: value for key, value in row.items() if value} for at, row in taken if at <= step]
        self._columns = sorted(set().union(*self._rows))

    def _size_on_disk(self) -> int | None:
        return self.path.stat().st_size if self.path.exists() else None

    def _text(self, rows: list[dict[str, Any]]) -> bytes:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns).writerows(rows)
        return text.getvalue().encode()
