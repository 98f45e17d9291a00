"""Numbers to metrics.csv."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusion_fw.registry import Runtime, register


@register("logger", "csv")
def csv(folder: Runtime[Path]) -> Any:
    """Write metrics.csv into the run's folder."""
    from diffusion_fw.training.metrics_file import MetricsFile

    return MetricsFile(folder / "metrics.csv")
