"""Evaluate: measure a checkpoint, or samples that are there already, by one metric or several."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import math
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_fw import registry
from diffusion_fw.app.program import run, unless_explained
from diffusion_fw.registry import ConfigError
from diffusion_fw.runs.record import Result

if TYPE_CHECKING:
    from diffusion_fw.app.sample_source import Source
    from diffusion_fw.config.application import Asked
    from diffusion_fw.metrics.collection import Collection
    from diffusion_fw.metrics.metric import Measurement, Metric

logger = logging.getLogger(__name__)

PACKAGES = ("diffusion-fw", "torch", "torchmetrics", "numpy", "pillow")
"""Those whose versions a result line states."""


def evaluate(config: dict[str, Any], folder: Path) -> Result:
    """The first of the ``measurements``; NaN in all processes but the first, which measures."""
    return result_of(measurements(config, folder))


def result_of(found: Sequence[Measurement]) -> Result:
    """The first number, which a sweep compares."""
    return Result(found[0].name, found[0].value) if found else Result("", math.nan)


def measurements(config: dict[str, Any], folder: Path, command: str | None = None) -> list[Measurement]:
    """Measure all metrics on one pass over the samples, print a table and write evaluation.json into ``folder``.

    ``command`` measures the same on a command line, by default that of this process. Empty in all processes but the
    first, which measures.
    """
    from diffusion_fw.app.processes import together
    from diffusion_fw.app.sample_source import open_source
    from diffusion_fw.composition.experiment import build_loggers, labels_of, plain
    from diffusion_fw.files import atomic_write
    from diffusion_fw.runs import results
    from diffusion_fw.sampling.share import rank
    from diffusion_fw.training.loggers.results import log_results

    if "name" in config["metric"]:
        # A single metric, as a training's config has it.
        config = {**config, "metric": {config["metric"]["name"]: config["metric"]}}
    with together():
        source = open_source(config)
        chosen = build_metrics(source)
        collection = collect(source, chosen)
        if collection:
            collection.draw_all()
        first_process = rank() == 0
    # The first process measures alone: metrics of torchmetrics would wait for the others.
    if not first_process:
        return []
    loggers = build_loggers(config, folder, labels_of("evaluate"))
    measured = list(measure(source, chosen, collection, folder))
    lines = [results.sealed(line) for line in result_lines(source, measured, collection, command)]
    record = {**flat_record(source, *measured[0]), "results": lines}
    with atomic_write(folder / "evaluation.json") as file:
        file.write(json.dumps(record, indent=2).encode())
    kept = results.append(Path(config["results"]), lines) if config["results"] else None
    if collection:
        collection.finish()
    pictures = [*(path for _, found in measured for path in found.pictures), *source.pictures(folder)]
    print_table(source, measured)
    for picture in pictures:
        print(f"picture: {picture}")
    if kept:
        print(f"{len(lines)} lines in {kept}; check one by python -m diffusion_fw.verify {kept}:NUMBER")
    log_results(loggers, plain(source.config), lines, pictures, [folder / "evaluation.json"])
    return [found for _, found in measured]


@dataclass(frozen=True)
class Chosen:
    """A metric of the config, under one protocol if the config names some."""

    name: str
    metric: Metric
    protocol: str | None


def build_metrics(source: Source) -> list[Chosen]:
    """The metrics of the config under each protocol; ConfigError for one that files of samples cannot have."""
    from diffusion_fw.composition.parts import assemble_metric, build_features
    from diffusion_fw.metrics.protocol import find, under

    config, data = source.config, source.data
    takes = {
        name: "features" in registry.entry("metric", section["name"]).runtime
        for name, section in config["metric"].items()
    }
    features = build_features(config, data) if any(takes.values()) else None
    rules: list[str | None] = [find(name, data.pixels).name for name in config["protocol"]] or [None]
    if config["protocol"] and features is None:
        raise ConfigError("protocol=... is of features, which metric=... does not take; leave it out")
    # One extractor for all metrics, so that their features are computed once.
    known = {rule: features if rule is None or features is None else under(rule, features) for rule in rules}
    chosen = []
    for name, section in config["metric"].items():
        if config["samples"] and not getattr(registry.entry("metric", section["name"]).factory, "takes", None):
            raise ConfigError(f"metric={name} is of a model, not of samples alone; give checkpoint=... for it")
    for name, section in config["metric"].items():
        for rule in rules if takes[name] else rules[:1]:
            metric = assemble_metric(source.sized(section), config, data, known[rule], source.latents)
            chosen.append(Chosen(name, metric, rule if takes[name] else None))
    return chosen


def collect(source: Source, chosen: Sequence[Chosen]) -> Collection | None:
    """The pass over the samples that the metrics share; None if none of them compares samples."""
    from diffusion_fw.files import default_cache
    from diffusion_fw.metrics.collection import Collection, Want
    from diffusion_fw.metrics.protocol import find

    wants = [
        Want(
            item.metric.num_samples,
            item.metric.takes | {"extremes"},
            item.metric.features,
            find(item.protocol).quantise if item.protocol else None,
        )
        for item in chosen
        if item.metric.takes
    ]
    if any(item.metric.of_samples for item in chosen):
        source.check(max(item.metric.num_samples for item in chosen))
    if not wants:
        return None
    return Collection(source.draw, wants, source.batch_size, source.device, default_cache(), source.identity)


def measure(
    source: Source, chosen: Sequence[Chosen], collection: Collection | None, folder: Path
) -> Iterator[tuple[Chosen, Measurement]]:
    """Each number that the metrics measure, in order."""
    from diffusion_fw.metrics.comparison import Comparison
    from diffusion_fw.metrics.ladder import ladder

    for item in chosen:
        subject = source.subject(collection, item.metric.num_samples, folder)
        found = item.metric.evaluate(subject)
        if source.config["ladder"]:
            if isinstance(item.metric, Comparison):
                rungs = ladder(item.metric, subject, found)
                found = replace(
                    found,
                    record={**found.record, **rungs.record},
                    rows={**found.rows, **rungs.rows},
                    pictures=[*found.pictures, *rungs.pictures],
                )
            else:
                logger.warning("ladder=true: metric=%s compares no samples, and has none", item.name)
        yield item, found
        yield from ((item, other) for other in found.further)


def print_table(source: Source, measured: Sequence[tuple[Chosen, Measurement]]) -> None:
    """Print all numbers, how far the protocols are apart, and what drew the samples."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    config = source.config
    table = Table("", escape(config["checkpoint"] or config["samples"]))
    for _, found in measured:
        table.add_row("metric", escape(found.name))
        for key, value in found.rows.items():
            table.add_row(key, value)
        table.add_section()
    for key, value in {**spreads(measured), **source.rows(any(item.metric.of_samples for item, _ in measured))}.items():
        table.add_row(key, value)
    Console().print(table)


def spreads(measured: Sequence[tuple[Chosen, Measurement]]) -> dict[str, str]:
    """The range of each number over the protocols, for a table; empty for fewer than two."""
    values: dict[str, list[float]] = {}
    for item, found in measured:
        if item.protocol:
            values.setdefault(found.name.partition("/")[0], []).append(found.value)
    return {
        f"{number}, by protocol": f"{min(each):.4g} to {max(each):.4g}, {max(each) - min(each):.2g} apart"
        for number, each in values.items()
        if len(each) > 1
    }


def flat_record(source: Source, item: Chosen, found: Measurement) -> dict[str, Any]:
    """evaluation.json of one number: the metric's own entries, and what drew the samples."""
    return {"metric": found.name, **found.record, **source.record(item.name)}


def result_lines(
    source: Source,
    measured: Sequence[tuple[Chosen, Measurement]],
    collection: Collection | None,
    command: str | None = None,
) -> Iterator[dict[str, Any]]:
    """A line for each number, with all that it depends on."""
    from diffusion_fw.composition.parts import features_section

    config, data = source.config, source.data
    probed = source.probe() if any(item.metric.of_samples for item, _ in measured) else {}
    seconds = collection.seconds / collection.drawn if collection and collection.drawn else None
    shared = {
        "seed": config["seed"],
        **source.identity,
        "weights": source.weights,
        "data": {**source.data_section, "fingerprints": data.fingerprints},
        "raw_weights": config["raw_weights"],
        "ema": config["ema"],
        "cost": {
            "seconds_per_sample": seconds,
            "evaluations": probed.get("evaluations"),
            "flops_per_sample": probed.get("flops_per_sample"),
        },
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "device": _card(source.device),
        "command": command or shlex.join(["python", *sys.argv]),
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    for item, found in measured:
        features = getattr(item.metric, "measured_on", getattr(item.metric, "features", None))
        stated = None
        if features is not None:
            stated = {**features_section(config, data), "fingerprint": features.fingerprint()}
        yield {
            "metric": found.name,
            "value": found.value,
            "better": found.better,
            "floor": found.floor,
            "interval": found.interval,
            "partial": found.partial,
            "component": config["metric"][item.name],
            "num_samples": item.metric.num_samples,
            "protocol": item.protocol,
            **shared,
            **(probed if item.metric.of_samples else {}),
            "features": stated,
            # A metric of a plugin may leave its value out.
            "record": found.record if found.value in found.record.values() else {**found.record, "value": found.value},
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


def prepare(asked: Asked) -> list[dict[str, Any]]:
    """The configs to run, each of which names what to measure; none where they are only explained."""
    from diffusion_fw.app.sample_source import check_source

    for config in asked.configs:
        check_source(config)
    return unless_explained(asked)


def main(plugins: Path | None = None) -> None:
    """The program `python evaluate.py`."""
    run("evaluate", evaluate, plugins=[plugins], prepare=prepare)
