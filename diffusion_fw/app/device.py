"""Which devices a program runs on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from diffusion_fw.registry import ConfigError


def choose(name: str) -> torch.device:
    """The device named, or for "auto" the first GPU if there is one, else the CPU; ConfigError where it isn't there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name}: {str(error).splitlines()[0]}; choose auto, cpu, cuda or mps") from None
    return device


def processes(trainer: Mapping[str, Any]) -> int:
    """How many processes a trainer's config asks for, on all machines together."""
    devices = trainer.get("devices", 1)
    if isinstance(devices, list):
        count = len(devices)
    elif isinstance(devices, int) and devices > 0:
        count = devices
    else:
        count = 1 if trainer.get("accelerator") == "cpu" else max(1, torch.cuda.device_count())
    return int(trainer.get("num_nodes", 1)) * count
