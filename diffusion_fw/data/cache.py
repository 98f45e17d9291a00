"""The folder of what is computed once of data, and how a file enters it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/diffusion_fw``, by default ``~/.cache/diffusion_fw``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffusion_fw"


def replace(path: Path, content: bytes) -> None:
    """Write a file in one step, so that processes that share the folder never read half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
