"""Where the host waits for the GPU: torch's warnings of synchronizing operations, counted by lines of code."""

from __future__ import annotations

import collections
import traceback
import warnings
from types import TracebackType
from typing import Any

import torch

from benchmarks.device.card import ROOT

MESSAGE = "called a synchronizing CUDA operation"
OWN = ("benchmarks/", "train.py", "evaluate.py", "sample.py")


class Syncs:
    """``with Syncs() as syncs: ...``, then ``syncs.sites()``; without a GPU torch has nothing to warn of."""

    def __init__(self) -> None:
        self._counts: collections.Counter[tuple[str, ...]] = collections.Counter()

    def __enter__(self) -> Syncs:
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.filterwarnings("always", message=f".*{MESSAGE}.*")
        self._shown, warnings.showwarning = warnings.showwarning, self._show  # type: ignore[assignment]
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("warn")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")
        self._caught.__exit__(kind, error, trace)

    def _show(self, message: Any, *args: Any, **kwargs: Any) -> None:
        if MESSAGE not in str(message):
            self._shown(message, *args, **kwargs)
            return
        frames = [frame for frame in traceback.extract_stack()[:-1] if not frame.filename.endswith("warnings.py")]
        inside = [frame for frame in frames if frame.filename.startswith(str(ROOT))]
        inside = [frame for frame in inside if not _name(frame).startswith(OWN)]
        # A wait inside a library is reported by its own line and by the line of this package that led to it.
        innermost = [frames[-1]] if frames and frames[-1] not in inside else []
        self._counts[tuple(_name(frame) for frame in [*inside[-3:], *innermost])] += 1

    def sites(self) -> list[dict[str, Any]]:
        """Each chain of lines, the innermost last, with how often it waited; the most frequent first."""
        return [{"count": count, "lines": list(lines)} for lines, count in self._counts.most_common()]

    @property
    def total(self) -> int:
        return self._counts.total()


def _name(frame: traceback.FrameSummary) -> str:
    path = frame.filename
    for prefix in (f"{ROOT}/", *(f"{part}/" for part in ("site-packages", "dist-packages"))):
        path = path.rpartition(prefix)[2]
    return f"{path}:{frame.lineno} {frame.name}"
