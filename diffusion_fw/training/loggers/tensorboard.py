"""TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusion_fw.registry import Runtime, register


@register("logger", "tensorboard")
def tensorboard(folder: Runtime[Path]) -> Any:
    """Write TensorBoard events, pictures included, into the run's folder."""
    import numpy as np
    from lightning.pytorch.loggers import TensorBoardLogger
    from PIL import Image

    class Logger(TensorBoardLogger):
        def log_picture(self, name: str, path: Path, step: int) -> None:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self.experiment.add_image(name, pixels, step, dataformats="HWC")

        def resume(self, step: int, state: dict[str, Any]) -> None:
            """Hide what was logged after ``step``."""
            self._kwargs["purge_step"] = step + 1

    return Logger(save_dir=folder, name="tensorboard", version="")
