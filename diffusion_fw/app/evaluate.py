"""Evaluate: measure a checkpoint, or samples that are there already, by one metric or several."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_fw import registry
from diffusion_fw.app.program import run, unless_explained
from diffusion_fw.registry import ConfigError
from diffusion_fw.runs.record import Result

if TYPE_CHECKING:
    from diffusion_fw.app.sample_source import Source
    from diffusion_fw.metrics.collection import Collection
    from diffusion_fw.metrics.metric import Measurement, Metric

PACKAGES = ("diffusion-fw", "torch", "torchmetrics", "numpy", "pillow")
"""Those whose versions a result line states."""


def evaluate(config: dict[str, Any], folder: Path) -> Result:
    """Measure all metrics on one pass over the samples, print a table and write evaluation.json into ``folder``.

    Returns the first number; NaN in all processes but the first, which measures.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from diffusion_fw.app.processes import together
    from diffusion_fw.app.sample_source import open_source
    from diffusion_fw.files import atomic_write
    from diffusion_fw.metrics.collection import rank
    from diffusion_fw.runs import results

    if "name" in config["metric"]:
        # A single metric, as a training's config has it.
        config = {**config, "metric": {config["metric"]["name"]: config["metric"]}}
    with together():
        source = open_source(config)
        metrics = build_metrics(source)
        collection = collect(source, metrics)
        if rank() > 0:
            if collection:
                collection.draw_all()
            return Result("", math.nan)
        measured = list(measure(source, metrics, collection, folder))
        lines = [results.sealed(line) for line in result_lines(source, metrics, measured, collection)]
        first = measured[0][1]
        record = {**flat_record(source, *measured[0]), "results": lines}
        with atomic_write(folder / "evaluation.json") as file:
            file.write(json.dumps(record, indent=2).encode())
        kept = results.append(Path(config["results"]), lines) if config["results"] else None
        if collection:
            collection.finish()
    table = Table("", escape(config["checkpoint"] or config["samples"]))
    for _, found in measured:
        table.add_row("metric", found.name)
        for key, value in {**found.rows, **interval_row(found)}.items():
            table.add_row(key, value)
        table.add_section()
    for key, value in source.rows(any(metric.of_samples for metric in metrics.values())).items():
        table.add_row(key, value)
    Console().print(table)
    for picture in [*(path for _, found in measured for path in found.pictures), *source.pictures(folder)]:
        print(f"picture: {picture}")
    if kept:
        print(f"{len(lines)} lines in {kept}; check one by python -m diffusion_fw.verify {kept}:NUMBER")
    return Result(first.name, first.value)


def build_metrics(source: Source) -> dict[str, Metric]:
    """The metrics of the config by name; ConfigError for one that files of samples cannot have."""
    from diffusion_fw.composition.parts import build_features, build_metric
    from diffusion_fw.metrics.comparison import Comparison

    config, data = source.config, source.data
    sections = config["metric"].values()
    wants = any("features" in registry.entry("metric", section["name"]).runtime for section in sections)
    features = build_features(config, data) if wants else None
    metrics = {
        name: build_metric(source.sized(section), config, data, features) for name, section in config["metric"].items()
    }
    for name, metric in metrics.items():
        if config["samples"] and not isinstance(metric, Comparison):
            raise ConfigError(f"metric={name} is of a model, not of samples alone; give checkpoint=... for it")
    return metrics


def collect(source: Source, metrics: Mapping[str, Metric]) -> Collection | None:
    """The pass over the samples that the metrics share; None if none of them compares samples."""
    from diffusion_fw.files import default_cache
    from diffusion_fw.metrics.collection import Collection, Want
    from diffusion_fw.metrics.comparison import Comparison

    wants = [
        Want(metric.num_samples, metric.takes | {"extremes"}, metric.features)
        for metric in metrics.values()
        if isinstance(metric, Comparison)
    ]
    if any(metric.of_samples for metric in metrics.values()):
        source.check(max(metric.num_samples for metric in metrics.values()))
    if not wants:
        return None
    return Collection(source.draw, wants, source.batch_size, source.device, default_cache(), source.identity)


def measure(
    source: Source, metrics: Mapping[str, Metric], collection: Collection | None, folder: Path
) -> Iterator[tuple[str, Measurement]]:
    """The name of each metric and a number that it measured, in order."""
    for name, metric in metrics.items():
        found = metric.evaluate(source.subject(collection, metric.num_samples, folder))
        yield name, found
        yield from ((name, other) for other in found.further)


def interval_row(found: Measurement) -> dict[str, str]:
    """The 95% interval for the table."""
    return {} if found.interval is None else {"95% interval": " to ".join(f"{end:.4g}" for end in found.interval)}


def flat_record(source: Source, name: str, found: Measurement) -> dict[str, Any]:
    """evaluation.json of one number: the metric's own entries, and what drew the samples."""
    return {"metric": found.name, **found.record, **source.record(name)}


def result_lines(
    source: Source,
    metrics: Mapping[str, Metric],
    measured: Sequence[tuple[str, Measurement]],
    collection: Collection | None,
) -> Iterator[dict[str, Any]]:
    """A line for each number, with all that it depends on."""
    from diffusion_fw.composition.parts import features_section

    config, data = source.config, source.data
    probed = source.probe() if any(metric.of_samples for metric in metrics.values()) else {}
    seconds = collection.seconds / collection.drawn if collection and collection.drawn else None
    shared = {
        "seed": config["seed"],
        **source.identity,
        "weights": source.weights,
        "data": {**source.data_section, "fingerprints": data.fingerprints},
        "raw_weights": config["raw_weights"],
        "ema": config["ema"],
        **probed,
        "cost": {"seconds_per_sample": seconds, "evaluations": probed.get("evaluations")},
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "device": _card(source.device),
        "command": shlex.join(["python", *sys.argv]),
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    for name, found in measured:
        metric = metrics[name]
        features = getattr(metric, "features", None)
        yield {
            "metric": found.name,
            "value": found.value,
            "better": found.better,
            "floor": found.floor,
            "interval": found.interval,
            "partial": found.partial,
            "component": config["metric"][name],
            "num_samples": metric.num_samples,
            **shared,
            "features": None
            if features is None
            else {**features_section(config, data), "fingerprint": features.fingerprint()},
            "record": found.record,
        }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _card(device: Any) -> str:
    """The name of a GPU, or the kind of another device."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type)


def main(plugins: Path | None = None) -> None:
    """The program `python evaluate.py`."""
    run("evaluate", evaluate, plugins=plugins, prepare=unless_explained("evaluate"))
