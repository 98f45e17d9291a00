"""TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from diffusion_fw.training.os_errors import log_os_errors


class TensorBoard(TensorBoardLogger):
    """Values and pictures as TensorBoard events in the run's folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(save_dir=folder, name="tensorboard", version="")

    @contextlib.contextmanager
    def _written(self) -> Iterator[Any]:
        """Flush what the block adds to the disk. Raises OSError if that fails."""
        try:
            yield self.experiment
            self.experiment.flush()
        except OSError:
            if self._experiment is not None:
                # After an error a writer refuses everything; the next value opens another one.
                self._experiment = None
                self._kwargs.pop("purge_step", None)
            raise

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        # Lightning's own method turns an OSError into a ValueError.
        with self._written() as writer:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)

    def log_picture(self, name: str, path: Path, step: int) -> None:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        with self._written() as writer:
            writer.add_image(name, pixels, step, dataformats="HWC")

    def resume(self, step: int, state: dict[str, Any]) -> None:
        """Hide what was logged after ``step``."""
        self._kwargs["purge_step"] = step + 1

    @rank_zero_only
    def finalize(self, status: str) -> None:
        with log_os_errors(f"closing the logs in {self.save_dir}", "its last values may be missing"):
            super().finalize(status)
