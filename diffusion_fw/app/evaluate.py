"""Evaluate: the distance of a checkpoint's samples to its data's held-out examples, with any sampler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusion_fw.app.program import run


def evaluate(config: dict[str, Any], folder: Path) -> float:
    """Measure a checkpoint, print a table and write evaluation.json into ``folder``; returns the distance."""
    from rich.console import Console
    from rich.table import Table
    from tqdm import tqdm

    from diffusion_fw.app.device import choose
    from diffusion_fw.app.load import load_with_record
    from diffusion_fw.composition import (
        Facts,
        build_data,
        build_metric,
        build_sampler,
        build_wrappers,
        check_fit,
        is_conditional,
    )
    from diffusion_fw.data.source import to_pixels
    from diffusion_fw.sampling import draw

    denoiser, record = load_with_record(config["checkpoint"], raw_weights=config["raw_weights"])
    facts = Facts.from_record(record["facts"])
    data = build_data(record["config"])
    sampler = build_sampler(config)
    check_fit(denoiser, sampler)
    metric, _ = build_metric(config, data)
    device = choose(config["device"])
    conditional = is_conditional(denoiser)
    wrapped = build_wrappers(config, facts, conditional)(denoiser.to(device))
    floor = metric.floor()
    metric.reset()
    metric.to(device)
    chunks = draw(
        sampler,
        wrapped,
        facts.shape,
        range(metric.num_samples),
        seed=config["seed"],
        num_classes=facts.num_classes if conditional else 0,
        batch_size=config["batch_size"],
        device=device,
    )
    with tqdm(total=metric.num_samples, desc="sampling") as bar:
        for chunk, x in chunks:
            metric.update(to_pixels(x) if facts.pixels else x)
            bar.update(len(chunk))
    distance = float(metric.compute())
    name = metric.name("raw" if config["raw_weights"] else "ema")
    result = {
        "metric": name,
        "distance": distance,
        "floor": floor,
        "sampler": config["sampler"],
        "grid": config["grid"],
        "checkpoint": config["checkpoint"],
        "seed": config["seed"],
    }
    (folder / "evaluation.json").write_text(json.dumps(result, indent=2))
    table = Table("metric", "distance", "floor (train vs held-out)", "sampler", "steps")
    table.add_row(name, f"{distance:.4g}", f"{floor:.4g}", config["sampler"]["name"], str(sampler.steps))
    Console().print(table)
    return distance


def main(plugins: Path | None = None) -> None:
    """The program `python evaluate.py`."""
    run("evaluate", evaluate, plugins=plugins)
