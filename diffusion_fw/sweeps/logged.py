"""What a sweep tells the loggers of its jobs: its picture and its table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from diffusion_fw.composition.experiment import build_loggers
from diffusion_fw.config.compose import resolved
from diffusion_fw.files import open_regular
from diffusion_fw.training.loggers.fan_out import Labels, print_places, tell


def log_sweep(config: DictConfig, config_loader: Any, overrides: Sequence[str], folder: Path, name: str) -> None:
    """Send name.png and name.csv of a sweep's folder to the loggers of a job with these overrides.

    Only to those that show pictures: the folder has the files already. They get a run of their own, in the jobs' group.
    """
    hydra = OmegaConf.select(config, "hydra.job")
    if hydra is None or not (folder / f"{name}.png").exists():
        return
    job = config_loader.load_configuration(hydra.config_name, list(overrides), run_mode=RunMode.RUN)
    with read_write(job), open_dict(job):
        del job["hydra"]
    labels = Labels("sweep", Labels.sweep_in(config.hydra.sweep.dir), config.hydra.runtime.choices.get("experiment"))
    loggers = build_loggers(resolved(hydra.name, job, overrides), folder, labels)
    shown = [logger for logger in loggers if hasattr(logger, "log_picture")]
    with open_regular(folder / f"{name}.csv") as file:
        columns, *rows = csv.reader(file.read().decode().splitlines())
    tell(shown, "log_picture", name, folder / f"{name}.png", 0)
    tell(shown, "log_rows", f"{name}/table", columns, rows, 0)
    print_places(shown)
    tell(shown, "finalize", "success")
