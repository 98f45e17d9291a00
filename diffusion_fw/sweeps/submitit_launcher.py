"""Launch the jobs of a sweep with submitit, on Slurm or in local processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import submitit
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from rich.console import Console

from diffusion_fw.registry import ConfigError

SHARED = (
    "name",
    "timeout_min",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "mem_gb",
    "nodes",
    "stderr_to_stdout",
)
"""The settings that submitit names alike for every executor; the others are prefixed by the executor's name."""

FOLDER, TIMEOUTS = "submitit_folder", "max_num_timeout"


def submit(
    run: Callable[..., JobReturn],
    executor: str,
    settings: Mapping[str, Any],
    jobs: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Submit all jobs at once and wait for each; a killed job gives a failed result, as one that raised an error does.

    ``run(overrides, folder key, number, id, singletons)`` is the callable of Hydra's submitit launcher for one job.
    Raises ConfigError if the executor is not available here.
    """
    own = {f"{executor}_{TIMEOUTS}": settings[TIMEOUTS]} if TIMEOUTS in settings else {}
    try:
        queue = submitit.AutoExecutor(settings[FOLDER], cluster=executor, **own)
    except RuntimeError as error:
        raise ConfigError(f"launcher=submitit_{executor}: {error}") from None
    others = {key: value for key, value in settings.items() if key not in (FOLDER, TIMEOUTS)}
    queue.update_parameters(**{key if key in SHARED else f"{executor}_{key}": others[key] for key in others})
    numbers = range(first, first + len(jobs))
    ids, state = [f"job_id_for_{number}" for number in numbers], Singleton.get_state()
    keys, states = ["hydra.sweep.dir"] * len(jobs), [state] * len(jobs)
    handles = queue.map_array(run, list(map(list, jobs)), keys, list(numbers), ids, states)
    Console().print(f"submitted: {', '.join(handle.job_id for handle in handles)}; logs in {settings[FOLDER]}")
    return [_result(handle, overrides) for handle, overrides in zip(handles, jobs, strict=True)]


def _result(handle: Any, overrides: Sequence[str]) -> JobReturn:
    try:
        found: JobReturn = handle.results()[0]
        return found
    except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError) as error:
        result = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
        result.return_value = error
        return result
