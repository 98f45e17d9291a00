"""Checkpoints during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusion_fw.registry import PositiveInt, Runtime, register


@register("callbacks", "checkpoints")
def checkpoints(history: Runtime[Any], folder: Runtime[Path], every: PositiveInt = 500) -> Any:
    """Write last.ckpt at intervals and at the end, and best.ckpt by distance."""
    from diffusion_fw.training.checkpoints import Checkpoints

    return Checkpoints(history=history, folder=folder / "checkpoints", every=every)
