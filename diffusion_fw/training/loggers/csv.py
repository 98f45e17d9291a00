"""Numbers to metrics.csv."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusion_fw.registry import Runtime, register


@register("logger", "csv")
def csv(folder: Runtime[Path]) -> Any:
    """Write metrics.csv into the run's folder."""
    from lightning.pytorch.loggers import CSVLogger

    return CSVLogger(save_dir=folder, name="", version="", flush_logs_every_n_steps=1)
