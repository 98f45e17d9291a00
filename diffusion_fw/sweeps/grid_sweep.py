"""The sweep of `sweep=basic`: it runs every combination of the listed values, whichever of them fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.errors import CompactHydraException
from omegaconf import DictConfig
from rich.console import Console

from diffusion_fw.config.sweep_overrides import sweep_overrides
from diffusion_fw.runs.record import FINISHED
from diffusion_fw.sweeps.folder import sweep_folder
from diffusion_fw.sweeps.jobs import Job, Launch, launch_jobs, plan_jobs, read_results
from diffusion_fw.sweeps.logged import log_sweep
from diffusion_fw.sweeps.tables import print_table, write_results
from diffusion_fw.training.os_errors import log_os_errors


def sweep(config: DictConfig, arguments: list[str], config_loader: Any, launch: Launch) -> list[float]:
    """Run every job that has not yet finished in the sweep's folder; returns the results in the jobs' order.

    A job that fails leaves its error in its record and in the table, and the others run. A job of an earlier sweep
    into the same folder is recognised by its overrides. Raises CompactHydraException at the end if a job did not
    finish.
    """
    overrides = sweep_overrides(config, arguments, config_loader)
    with sweep_folder(config) as folder:
        jobs = plan_jobs(overrides, folder)
        _run(jobs, folder, launch, config.hydra.sweeper.get("max_batch_size"))
        if not all(job.finished_earlier for job in jobs):
            log_sweep(config, config_loader, jobs[0].overrides, folder, "jobs")
        if unfinished := [job for job in jobs if job.outcome != FINISHED]:
            numbers = ", ".join(str(job.number) for job in unfinished)
            raise CompactHydraException(f"{len(unfinished)} of {len(jobs)} jobs did not finish: {numbers}")
        return [job.result for job in jobs]


def _run(jobs: list[Job], folder: Path, launch: Launch, together: int | None) -> None:
    missing = [job for job in jobs if not job.finished_earlier]
    console = Console()
    if len(missing) < len(jobs):
        console.print(f"{len(jobs) - len(missing)} of {len(jobs)} jobs had already finished", highlight=False)
    try:
        size = together or len(missing) or 1
        for first in range(0, len(missing), size):
            launch_jobs(missing[first : first + size], launch)
    finally:
        # Also when a signal ends the sweep.
        read_results(jobs, folder)
        print_table(console, jobs, folder)
        with log_os_errors(f"writing into {folder}", "each job's folder still holds its record"):
            write_results(jobs, folder)
