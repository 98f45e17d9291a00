"""The device that sampling and evaluation run on."""

from __future__ import annotations

import torch

from diffusion_fw.registry import ConfigError


def choose(name: str) -> torch.device:
    """The device of this name; "auto" is the first GPU, or the CPU without one. ConfigError where it does not exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name}: {str(error).splitlines()[0]}; choose auto, cpu, cuda or mps") from None
    return device
