"""diffusion_fw: diffusion experiments whose every axis is one registered component and one key of the config."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from diffusion_fw.discovery import load_plugins
from diffusion_fw.registry import ConfigError, Runtime, build, names, register

if TYPE_CHECKING:
    from diffusion_fw import checking, likelihood, oracles
    from diffusion_fw.app.load import load
    from diffusion_fw.denoiser import Denoiser, NetworkDenoiser, prior
    from diffusion_fw.process.parameterization import Prediction
    from diffusion_fw.process.transition import Transition, posterior

__version__ = "0.1.0"

_HOMES = {
    "Denoiser": "diffusion_fw.denoiser",
    "NetworkDenoiser": "diffusion_fw.denoiser",
    "prior": "diffusion_fw.denoiser",
    "Prediction": "diffusion_fw.process.parameterization",
    "Transition": "diffusion_fw.process.transition",
    "posterior": "diffusion_fw.process.transition",
    "load": "diffusion_fw.app.load",
}
_ROOMS = ("checking", "likelihood", "oracles")

__all__ = [
    "ConfigError",
    "Denoiser",
    "NetworkDenoiser",
    "Prediction",
    "Runtime",
    "Transition",
    "build",
    "checking",
    "likelihood",
    "load",
    "load_plugins",
    "names",
    "oracles",
    "posterior",
    "prior",
    "register",
]


def __getattr__(name: str) -> Any:
    """Import a public name's room when it is first asked for, so that the registry alone costs nothing."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"diffusion_fw.{name}")
    raise AttributeError(f"module 'diffusion_fw' has no attribute '{name}'")
