"""Train: build the experiment, fit it, leave its pictures and a table."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusion_fw.app.program import run
from diffusion_fw.registry import ConfigError


def train(config: dict[str, Any], folder: Path) -> float:
    """One training run in ``folder``; returns its best distance (inf where none is finite), which sweeps minimise."""
    import logging
    import warnings

    import lightning.pytorch  # noqa: F401 - sets the levels of its loggers, which are set again below
    import torch

    from diffusion_fw.app.report import Report
    from diffusion_fw.composition import build_experiment

    for message in (
        "does not have many workers",
        "logs directory .* exists and is not empty",
        "in eval mode at the start of training",
        "is smaller than the logging interval",
        "all_gather is deprecated",
    ):
        warnings.filterwarnings("ignore", message=f".*{message}")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_float32_matmul_precision("high")
    experiment = build_experiment(config, folder)
    trainer = experiment.trainer
    trainer.callbacks.append(Report(experiment, config, folder, floor=experiment.metric.floor()))
    with errors_of_children():
        trainer.fit(experiment.module)
    # What strategies that fork or spawn bring back from the process that trained.
    return float(trainer.callback_metrics.get("best_distance", float("inf")))


@contextlib.contextmanager
def errors_of_children() -> Iterator[None]:
    """A ConfigError of a forked or spawned process, which comes as the text of its traceback, is raised as one."""
    from torch.multiprocessing import ProcessRaisedException

    from diffusion_fw.training.health import NumericalError

    try:
        yield
    except ProcessRaisedException as error:
        # The traceback's last entry begins a line with the name of its class.
        *_, last = re.split(r"^(?=[\w.]+: )", str(error).strip(), flags=re.MULTILINE)
        name, _, message = last.partition(": ")
        kind = {"ConfigError": ConfigError, "NumericalError": NumericalError}.get(name.rpartition(".")[2])
        if kind is None:
            raise
        raise kind(message) from None


def check_sweep(configs: list[dict[str, Any]], arguments: list[str]) -> None:
    """Refuse a sweep whose jobs would run the whole command line, and so the sweep, again in each of their processes.

    Raises ConfigError that names the strategies that start their processes otherwise.
    """
    from diffusion_fw.app.device import processes

    swept = "-m" in arguments or "--multirun" in arguments
    if not swept or any(argument.startswith("hydra/launcher=submitit") for argument in arguments):
        return
    for trainer in (config["trainer"] for config in configs):
        strategy = trainer.get("strategy", "auto")
        if processes(trainer) > 1 and not strategy.endswith(("_fork", "_spawn")):
            raise ConfigError(
                f"trainer.strategy={strategy}: each of its processes would run the whole sweep again; in a sweep use "
                "trainer.strategy=ddp_fork, trainer.strategy=ddp_spawn or hydra/launcher=submitit_slurm"
            )


def before(configs: list[dict[str, Any]], arguments: list[str]) -> bool:
    """Answer explain=true: print what would be run, and run nothing."""
    check_sweep(configs, arguments)
    if not configs[0]["explain"]:
        return False
    from diffusion_fw.app.explain import explain

    explain(configs[0], arguments)
    return True


def main(plugins: Path | None = None) -> None:
    """The program `python train.py`."""
    run("train", train, plugins=plugins, before=before)
