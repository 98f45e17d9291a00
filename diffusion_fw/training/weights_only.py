"""How Lightning reads a checkpoint when training is resumed."""

from __future__ import annotations

import pickle
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from diffusion_fw.registry import ConfigError


class WeightsOnlyIO(TorchCheckpointIO):
    """Weights, numbers and text alone, whatever the version of Lightning would read: a stranger's file runs nothing."""

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ConfigError(
                f"checkpoint={path} is damaged or holds more than weights and settings, and was not loaded: "
                f"{str(error).splitlines()[0]}"
            ) from None
        return content
