"""TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary

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

    def log_animation(self, name: str, path: Path, step: int) -> None:
        """A GIF among the pictures: TensorBoard's page shows the file as it is."""
        with Image.open(path) as picture:
            width, height = picture.size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
        with self._written() as writer:
            writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def log_rows(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """A table, as text."""
        lines = [columns, ["---"] * len(columns), *rows]
        text = "\n".join("|" + "|".join(str(cell).replace("|", "/") for cell in line) + "|" for line in lines)
        with self._written() as writer:
            writer.add_text(name, text, step)

    def resume(self, step: int, state: dict[str, Any]) -> None:
        """Hide what was logged after ``step``."""
        self._kwargs["purge_step"] = step + 1

    @rank_zero_only
    def finalize(self, status: str) -> None:
        with log_os_errors(f"closing the logs in {self.save_dir}", "its last values may be missing"):
            super().finalize(status)
