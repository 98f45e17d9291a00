"""Published weights in and out: `python -m diffusion_fw.interop import|export`, and our samplers in diffusers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from diffusion_fw.registry import ConfigError

if TYPE_CHECKING:
    from diffusion_fw.interop.exporting import export
    from diffusion_fw.interop.published import import_published
    from diffusion_fw.interop.scheduler import as_scheduler
    from diffusion_fw.interop.source import read_source

__all__ = ["as_scheduler", "export", "import_published", "read_source"]

_HOMES = {"as_scheduler": "scheduler", "export": "exporting", "import_published": "published", "read_source": "source"}


def __getattr__(name: str) -> Any:
    """Import what is asked for: a scheduler needs diffusers, imports do not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'diffusion_fw.interop' has no attribute '{name}'")
    try:
        return getattr(importlib.import_module(f"diffusion_fw.interop.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "diffusers":
            raise
        raise ConfigError(f"interop.{name} needs the package diffusers: pip install diffusers") from None
