"""The progress bar."""

from __future__ import annotations

from typing import Any

from diffusion_fw.registry import PositiveInt, Runtime, register


@register("callbacks", "progress")
def progress(history: Runtime[Any], refresh_rate: PositiveInt = 10) -> Any:
    """Show step, loss, images per second."""
    from diffusion_fw.training.progress import Progress

    return Progress(history=history, refresh_rate=refresh_rate)
