"""The JSON file of a stage, written again after every measurement, so that a stop loses only what was not measured."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.device.card import facts

LINES = 12
"""Of a traceback, at most so many last lines are kept."""


class Record:
    """The rows of a stage, each a dict with name, text and ok: True, False, or None where nothing is claimed.

    A row may name a ``group``: rows of one group are one line in the table, with those that failed named.
    """

    def __init__(self, path: Path, stage: str, seconds: float) -> None:
        self.path, self.end = path, time.monotonic() + seconds
        self.content: dict[str, Any] = {"stage": stage, **facts(), "seconds": 0.0, "finished": False, "rows": []}
        self._begin, self._lock = time.monotonic(), threading.Lock()
        self._write()

    @property
    def left(self) -> float:
        """Seconds until the stage must have ended."""
        return self.end - time.monotonic()

    def add(self, name: str, text: str, ok: bool | None = None, **values: Any) -> None:
        with self._lock:
            self.content["rows"].append({"name": name, "text": text, "ok": ok, **values})
            self._write()

    def measure(
        self, name: str, function: Callable[..., dict[str, Any]], *arguments: Any, needs: float = 0, group: str = ""
    ) -> None:
        """A row of what ``function(*arguments)`` returns, or its error; left out with under ``needs`` seconds left."""
        own: dict[str, Any] = {"group": group} if group else {}
        if self.left < needs:
            self.add(name, f"left out: {self.left:.0f} s were left of {needs:.0f}", **own)
            return
        begin = time.monotonic()
        try:
            values = {"text": "", "ok": None, **function(*arguments)}
        except Exception as error:
            lines = traceback.format_exc().strip().splitlines()[-LINES:]
            message = (str(error).strip().splitlines() or [""])[0]
            values = {"text": f"{type(error).__name__}: {message}", "ok": False, "traceback": lines}
        self.add(name, **values, took=round(time.monotonic() - begin, 2), **own)

    def finish(self) -> None:
        self.content["finished"] = True
        self._write()

    def _write(self) -> None:
        self.content["seconds"] = round(time.monotonic() - self._begin, 1)
        aside = self.path.with_suffix(".part")
        aside.write_text(json.dumps(self.content, indent=1, default=str))
        aside.replace(self.path)
