"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from diffusion_fw.training.weights_only import WeightsOnlyIO

UNFINISHED = ".part"


class DurableIO(WeightsOnlyIO):
    """Writes a checkpoint aside, flushes it to the disk and renames it: what stands at its path is always a whole one.

    A failed write raises OSError, whatever torch makes of it, and leaves no file of its own.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with replaced(Path(path)) as file:
            watched = _Watched(file)
            try:
                torch.save(checkpoint, watched)  # type: ignore[arg-type]
            except RuntimeError:  # torch's writer hides the error of the file below it
                if watched.error is None:
                    raise
                raise watched.error from None


class _Watched:
    """A file that remembers why it could not be written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None
        self.flush = file.flush

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A file whose content takes the place of ``path`` when the block ends, and is on the disk by then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """The rename itself on the disk; not every system can flush a folder."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_unfinished(folder: Path) -> None:
    """Remove what a run that was killed while it wrote has left in ``folder``."""
    for path in folder.glob(f".*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            path.unlink()
