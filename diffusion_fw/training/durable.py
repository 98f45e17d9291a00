"""Checkpoints that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import torch

from diffusion_fw.files import atomic_write
from diffusion_fw.training.weights_only import WeightsOnlyIO


class DurableIO(WeightsOnlyIO):
    """Writes a checkpoint aside, flushes it to the disk and renames it: what stands at its path is always a whole one.

    A failed write raises OSError, whatever torch makes of it, and leaves no file of its own.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with atomic_write(Path(path)) as file:
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
