"""How checkpoints are written and read: always whole on the disk, and without running code of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from diffusion_fw.files import atomic_write
from diffusion_fw.training.archive import read_archive


class DurableIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file, flushes it to the disk and renames it; reads values alone.

    A failed write leaves the existing file as it is, and always raises OSError, whatever torch makes of it. Reading
    raises ConfigError for a file that is damaged or holds more than tensors, numbers, text and containers.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with atomic_write(Path(path)) as file:
            watched = _Watched(file)
            try:
                torch.save(checkpoint, watched)  # type: ignore[arg-type]
            except RuntimeError:  # torch's writer hides the error of the underlying file
                if watched.error is None:
                    raise
                raise watched.error from None

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        content: dict[str, Any] = read_archive(path)
        return content


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
