"""The folder of a sweep: one sweep at a time has it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffusion_fw.files import atomic_write
from diffusion_fw.runs.record import locked
from diffusion_fw.training.os_errors import log_os_errors


@contextlib.contextmanager
def sweep_folder(config: DictConfig) -> Iterator[Path]:
    """The folder of a sweep, locked for the block, with the sweep's multirun.yaml.

    Raises InUseError where another sweep has it, and OSError where it cannot be made.
    """
    folder = Path(config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        path = folder / "multirun.yaml"
        with log_os_errors(f"writing {path}", "the sweep continues"), atomic_write(path) as file:
            file.write(OmegaConf.to_yaml(config).encode())
        yield folder
