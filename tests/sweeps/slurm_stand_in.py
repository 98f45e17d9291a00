"""As much of Slurm as submitit needs, on one machine: sbatch, srun, sacct and scontrol requeue.

The jobs of an array run one after the other. Their state is kept in the folder SLURM_STAND_IN.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def sbatch(place: Path, script: str) -> None:
    text = Path(script).read_text()
    job = str(1000 * (1 + len(list(place.glob("script-*")))))
    (place / f"script-{job}").write_text(text)
    array = re.search(r"--array=0-(\d+)", text)
    tasks = [f"{job}_{task}" for task in range(int(array.group(1)) + 1)] if array else [job]
    # The caller of sbatch waits until no process holds its output open.
    command, quiet = [sys.executable, __file__, "controller", script, *tasks], subprocess.DEVNULL
    subprocess.Popen(command, start_new_session=True, stdin=quiet, stdout=quiet, stderr=quiet)
    print(f"Submitted batch job {job}")


def controller(place: Path, script: str, *jobs: str) -> None:
    tasks = re.search(r"--ntasks-per-node=(\d+)", Path(script).read_text())
    for number, name in enumerate(jobs):
        job, _, task = name.partition("_")
        own = {"SLURM_JOB_NAME": "train", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "localhost"}
        own |= {"SLURM_JOB_ID": str(int(job) + number), "SLURM_NTASKS": tasks.group(1) if tasks else "1"}
        own["SLURM_NTASKS_PER_NODE"] = own["SLURM_NTASKS"]
        if task:
            own |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": task}
        while True:
            (place / f"job-{name}").write_text("RUNNING")
            code = subprocess.run(["bash", script], env={**os.environ, **own}).returncode
            if not (place / f"requeue-{name}").exists():
                break
            (place / f"requeue-{name}").unlink()
        (place / f"job-{name}").write_text("COMPLETED" if code == 0 else "FAILED")


def srun(place: Path, *arguments: str) -> None:
    """Run the tasks of a job side by side, with the patterns in the names of their log files filled in."""
    signs = {"%A": "SLURM_ARRAY_JOB_ID", "%a": "SLURM_ARRAY_TASK_ID", "%j": "SLURM_JOB_ID"}
    command, logs = list(arguments), {}
    while command[0].startswith("--"):
        flag = command.pop(0)
        if flag in ("--output", "--error"):
            logs[flag] = command.pop(0)
            for sign, key in signs.items():
                logs[flag] = logs[flag].replace(sign, os.environ.get(key, sign))
    count = int(os.environ["SLURM_NTASKS"])
    tasks = []
    for rank in range(count):
        own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "SLURM_STEP_ID": "0"}
        output, error = (Path(logs[flag].replace("%t", str(rank))) for flag in ("--output", "--error"))
        with output.open("a") as out, error.open("a") as err:
            tasks.append(subprocess.Popen(command, env={**os.environ, **own}, stdout=out, stderr=err))
    while all(task.poll() in (None, 0) for task in tasks) and any(task.poll() is None for task in tasks):
        time.sleep(0.1)
    # When a job is requeued or one of its tasks fails, all its tasks end.
    for task in tasks:
        task.kill()
    sys.exit(max(abs(task.wait()) for task in tasks))


def sacct(place: Path, *arguments: str) -> None:
    print("JobID|State|NodeList")
    for path in sorted(place.glob("job-*")):
        print(f"{path.name.removeprefix('job-')}|{path.read_text()}|localhost")


def scontrol(place: Path, action: str, job: str) -> None:
    assert action == "requeue"
    (place / f"requeue-{job}").touch()


def install(folder: Path) -> dict[str, str]:
    """Write the commands into ``folder``/bin; returns the environment that finds them."""
    (folder / "bin").mkdir(parents=True)
    (folder / "state").mkdir()
    for name in ("sbatch", "srun", "sacct", "scontrol"):
        command = folder / "bin" / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} {name} "$@"\n')
        command.chmod(0o755)
    return {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "SLURM_STAND_IN": str(folder / "state"),
    }


if __name__ == "__main__":
    commands: dict[str, Any] = {
        "sbatch": sbatch,
        "controller": controller,
        "srun": srun,
        "sacct": sacct,
        "scontrol": scontrol,
    }
    commands[sys.argv[1]](Path(os.environ["SLURM_STAND_IN"]), *sys.argv[2:])
