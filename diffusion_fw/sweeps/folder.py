"""The folder of a sweep: one sweep at a time has it, and leaves a page in it that compares the jobs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffusion_fw.files import atomic_write
from diffusion_fw.registry import ConfigError
from diffusion_fw.reports.page import write_report
from diffusion_fw.runs.record import locked
from diffusion_fw.training.os_errors import log_os_errors, warn_once


@contextlib.contextmanager
def sweep_folder(config: DictConfig) -> Iterator[Path]:
    """The folder of a sweep, locked for the block, with the sweep's multirun.yaml; at the end with its report.html.

    Raises InUseError where another sweep has it, and OSError where it cannot be made.
    """
    folder = Path(config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        path = folder / "multirun.yaml"
        with log_os_errors(f"writing {path}", "the sweep continues"), atomic_write(path) as file:
            file.write(OmegaConf.to_yaml(config).encode())
        try:
            yield folder
        finally:
            # Also when a signal ends the sweep, or jobs failed.
            _write_page(folder)


def _write_page(folder: Path) -> None:
    """Write the page of the jobs that were started; nothing that a job left in its folder can make the sweep fail."""
    try:
        print(write_report([folder]).describe())
    except ConfigError:
        # No job has left anything.
        pass
    except Exception as error:
        warn_once(f"writing the page of {folder}", error, f"the jobs are done; try python report.py {folder}")
