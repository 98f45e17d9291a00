"""How Lightning reads a checkpoint when training is resumed."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from diffusion_fw.training.archive import read_archive


class WeightsOnlyIO(TorchCheckpointIO):
    """Reads tensors and plain values alone, whatever a version of Lightning would read: a file runs no code."""

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        content: dict[str, Any] = read_archive(path)
        return content
