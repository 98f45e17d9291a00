"""Which device a program runs on."""

from __future__ import annotations

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
