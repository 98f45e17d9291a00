"""Evaluate: what a metric says of a checkpoint, with any sampler."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_fw.app.program import run

if TYPE_CHECKING:
    from torch import Tensor


def evaluate(config: dict[str, Any], folder: Path) -> float:
    """Measure a checkpoint, print a table and write evaluation.json into ``folder``; returns the metric's value."""
    from rich.console import Console
    from rich.table import Table

    from diffusion_fw.app.device import choose
    from diffusion_fw.app.load import load_chosen
    from diffusion_fw.app.memory import chunk_size
    from diffusion_fw.composition import (
        Facts,
        build_data,
        build_metric,
        build_sampler,
        build_variance,
        build_wrappers,
        check_fit,
        check_label_dropout,
        is_conditional,
        own_variance,
    )
    from diffusion_fw.data.source import to_pixels
    from diffusion_fw.metrics.metric import Subject
    from diffusion_fw.sampling import draw

    denoiser, record, choice = load_chosen(config["checkpoint"], raw_weights=config["raw_weights"], **config["ema"])
    config = own_variance(config, record["config"])
    facts = Facts.from_record(record["facts"])
    data = build_data(record["config"])
    metric, _ = build_metric(config, data)
    sampler, variance = build_sampler(config), build_variance(config)
    if metric.of_samples:
        check_fit(denoiser, sampler, variance)
    device = choose(config["device"])
    batch_size = chunk_size(config["batch_size"], record["config"], facts, device)
    conditional = is_conditional(denoiser)
    num_classes = facts.num_classes if conditional else 0
    check_label_dropout(config, record["config"]["label_dropout"])
    wrapped = build_wrappers(config, facts, conditional)(denoiser.to(device))

    def samples() -> Iterator[tuple[Sequence[int], Tensor]]:
        for chunk, x in draw(
            sampler,
            wrapped,
            facts.shape,
            range(metric.num_samples),
            seed=config["seed"],
            num_classes=num_classes,
            batch_size=batch_size,
            device=device,
        ):
            yield chunk, to_pixels(x) if facts.pixels else x

    measured = metric.evaluate(
        Subject(
            denoiser=wrapped,
            variance=variance,
            data=data,
            samples=samples,
            num_classes=num_classes,
            weights=choice.name,
            device=device,
            seed=config["seed"],
            batch_size=batch_size,
            folder=folder,
        )
    )
    how = {"sampler": config["sampler"]["name"], "sampler steps": str(sampler.steps)} if metric.of_samples else {}
    rows = {"metric": measured.name, **measured.rows, **how, "variance": config["variance"]["name"], **choice.rows}
    result = {
        "metric": measured.name,
        **measured.record,
        **({"sampler": config["sampler"]} if metric.of_samples else {}),
        "grid": config["grid"],
        "variance": config["variance"],
        "checkpoint": config["checkpoint"],
        **choice.record,
        "seed": config["seed"],
    }
    (folder / "evaluation.json").write_text(json.dumps(result, indent=2))
    table = Table("", config["checkpoint"])
    for key, value in rows.items():
        table.add_row(key, value)
    Console().print(table)
    for picture in (*measured.pictures, *choice.pictures(folder)):
        print(f"picture: {picture}")
    return measured.value


def main(plugins: Path | None = None) -> None:
    """The program `python evaluate.py`."""
    run("evaluate", evaluate, plugins=plugins)
