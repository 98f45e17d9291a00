"""The jobs of a sweep through submitit, on a cluster or as on one."""

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
"""What submitit calls alike for every executor; any other setting has the executor's name before its own."""

FOLDER, TIMEOUTS = "submitit_folder", "max_num_timeout"


def submit(
    run: Callable[..., JobReturn],
    executor: str,
    settings: Mapping[str, Any],
    jobs: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Submit all jobs at once and wait for each; one that was killed is a failed result, as one that raised is.

    ``run(words, folder key, number, id, singletons)`` is submitit's callable for one job. Raises ConfigError where
    there is no such cluster.
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
    return [_result(handle, words) for handle, words in zip(handles, jobs, strict=True)]


def _result(handle: Any, words: Sequence[str]) -> JobReturn:
    try:
        return handle.results()[0]
    except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError) as error:
        result = JobReturn(overrides=list(words), status=JobStatus.FAILED)
        result.return_value = error
        return result
