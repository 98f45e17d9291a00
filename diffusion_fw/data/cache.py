"""The folder of what is computed once of data."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/diffusion_fw``, by default ``~/.cache/diffusion_fw``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffusion_fw"
