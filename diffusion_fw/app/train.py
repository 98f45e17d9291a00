"""Train: build the experiment, fit it, leave its pictures and a table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from diffusion_fw.app.program import run


def train(config: dict[str, Any], folder: Path) -> float:
    """One training run in ``folder``; returns its best distance (inf where none is finite), which sweeps minimise."""
    import logging
    import warnings

    import lightning.pytorch  # noqa: F401 - sets the levels of its loggers, which are set again below
    import torch
    import yaml

    from diffusion_fw.app.report import draw_report, print_summary
    from diffusion_fw.build import build_experiment, plain

    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_float32_matmul_precision("high")
    experiment = build_experiment(config, folder)
    floor = experiment.metric.floor()
    trainer = experiment.trainer
    if trainer.is_global_zero:
        (folder / "config.yaml").write_text(yaml.safe_dump(plain(config), sort_keys=False))
    for logger in trainer.loggers:
        logger.log_hyperparams(plain(config))
    trainer.fit(experiment.module)
    if trainer.is_global_zero:
        draw_report(experiment, config, folder, floor)
        print_summary(experiment, folder, floor)
    for logger in trainer.loggers:
        logger.finalize("success")
    distances = [value for _, value in experiment.history.distances if math.isfinite(value)]
    return min(distances, default=math.inf)


def before(configs: list[dict[str, Any]], arguments: list[str]) -> bool:
    """Answer explain=true: print what would be run, and run nothing."""
    if not configs[0]["explain"]:
        return False
    from diffusion_fw.app.explain import explain

    explain(configs[0], arguments)
    return True


def main(plugins: Path | None = None) -> None:
    """The program `python train.py`."""
    run("train", train, plugins=plugins, before=before)
