"""Evaluate: measure a checkpoint by a metric, with any sampler."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from diffusion_fw.app.program import run, unless_explained
from diffusion_fw.runs.record import Result


def evaluate(config: dict[str, Any], folder: Path) -> Result:
    """Measure a checkpoint, print a table and write evaluation.json into ``folder``; returns the result."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from diffusion_fw.app.trained_model import open_trained
    from diffusion_fw.composition.experiment import build_loggers, labels_of, plain
    from diffusion_fw.composition.parts import build_metric
    from diffusion_fw.files import atomic_write
    from diffusion_fw.metrics.metric import Subject
    from diffusion_fw.training.loggers.results import log_results

    model = open_trained(config)
    config, choice, sampler = model.complete, model.choice, model.sampler
    data = model.data
    if model.num_classes == data.num_classes:
        # A checkpoint of version 0.1.0 does not say how often each class occurs.
        model = dataclasses.replace(model, class_counts=model.facts.class_counts or data.class_counts)
    metric, _ = build_metric(config, data)
    loggers = build_loggers(config, folder, labels_of("evaluate"))
    if metric.of_samples:
        model.check_sampler()
        print(f"memory, estimated: {model.memory(metric.num_samples)}")
    measured = metric.evaluate(
        Subject(
            denoiser=model.denoiser,
            variance=model.variance,
            data=data,
            samples=lambda: model.draw(metric.num_samples),
            num_classes=model.num_classes,
            weights=choice.name,
            device=model.device,
            seed=config["seed"],
            batch_size=model.batch_size,
            folder=folder,
        )
    )
    how = {"sampler": config["sampler"]["name"], "sampler steps": str(sampler.steps)} if metric.of_samples else {}
    how |= {"guidance": ", ".join(config["guidance"]) or "none", "variance": config["variance"]["name"]}
    rows = {"metric": measured.name, **measured.rows, **how, **choice.rows}
    result = {
        "metric": measured.name,
        **measured.record,
        **({"sampler": config["sampler"]} if metric.of_samples else {}),
        "grid": config["grid"],
        "guidance": config["guidance"],
        "variance": config["variance"],
        **({} if model.own_data else {"data": config["data"]}),
        "checkpoint": config["checkpoint"],
        **choice.record,
        "seed": config["seed"],
    }
    with atomic_write(folder / "evaluation.json") as file:
        file.write(json.dumps(result, indent=2).encode())
    table = Table("", escape(config["checkpoint"]))
    for key, value in rows.items():
        table.add_row(key, value)
    Console().print(table)
    pictures = [*measured.pictures, *choice.pictures(folder)]
    for picture in pictures:
        print(f"picture: {picture}")
    line = {**result, "value": measured.value, "num_samples": metric.num_samples if metric.of_samples else None}
    log_results(loggers, plain(config), [line], pictures, [folder / "evaluation.json"])
    return Result(measured.name, measured.value)


def main(plugins: Path | None = None) -> None:
    """The program `python evaluate.py`."""
    run("evaluate", evaluate, plugins=plugins, prepare=unless_explained("evaluate"))
