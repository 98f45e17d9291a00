"""What Hydra would write into the folder of a run, written once the folder is this run's: its log and .hydra/.

Hydra itself writes before the run can lock the folder, so a run that is refused would write into that of another.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from diffusion_fw.files import atomic_write, open_to_append
from diffusion_fw.training.os_errors import log_os_errors

FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"


class LogFile(logging.Handler):
    """Appends each record to a file. A record that can't be written is lost, and the next one is tried again.

    The file may be removed at any time, and a link is never followed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.setFormatter(logging.Formatter(FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError), open_to_append(self.path) as file:
            file.write(f"{self.format(record)}\n".encode(errors="backslashreplace"))


@contextlib.contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Write what is logged in the block into a file too."""
    handler, root = LogFile(path), logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def save_hydra(folder: Path, config: DictConfig) -> None:
    """Write the job's config, Hydra's own and the overrides into ``folder``."""
    hydra: Any = HydraConfig.get()
    files = {"config": config, "hydra": OmegaConf.create({"hydra": hydra}), "overrides": hydra.overrides.task}
    for name, content in files.items():
        with (
            log_os_errors(f"writing into {folder}", "the run continues"),
            atomic_write(folder / f"{name}.yaml") as file,
        ):
            file.write(OmegaConf.to_yaml(content).encode())
