"""explain=true: what a run would be, without running it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffusion_fw import registry
from diffusion_fw.app.device import processes
from diffusion_fw.app.help import defaults
from diffusion_fw.app.memory import describe_memory, describe_sampling_memory
from diffusion_fw.composition.facts import Facts
from diffusion_fw.composition.parts import (
    build_data,
    build_denoiser,
    build_sampler,
    build_variance,
    build_wrappers,
    check_fit,
    is_conditional,
)
from diffusion_fw.config.compose import STACKED, conf_dir
from diffusion_fw.samplers.sampler import Sampler
from diffusion_fw.sampling.chunk import chunk_size, measure_chunk


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a config with its dotted key."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def origins(config: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, str]:
    """Where each leaf's value came from: command line, an experiment's or preset's file, train.yaml, a signature."""
    given = dict(argument.lstrip("+~").split("=", 1) for argument in arguments if "=" in argument)
    chosen = dict.fromkeys(defaults("train"), "conf/train.yaml")
    options = defaults("train")
    if "experiment" in given:
        overrides = _overrides(given["experiment"])
        options.update(overrides)
        chosen.update(dict.fromkeys(overrides, f"conf/experiment/{given['experiment']}.yaml"))
    stated: dict[str, str] = {}
    for group, option in {**options, **given}.items():
        if isinstance(option, str):
            stated.update(_stated(f"{group}/{option}.yaml", "" if group == "experiment" else f"{group}."))
    stated = {**_stated("train.yaml", ""), **stated}
    result = {}
    for key, _ in flatten(config):
        group = key.partition(".")[0]
        names = key.endswith(".name") or key == group
        if key in given or (names and group in given):
            result[key] = "command line"
        elif key in stated:
            result[key] = stated[key]
        elif names:
            result[key] = chosen.get(group, "conf/train.yaml")
        else:
            result[key] = f"signature of {_signature(config, key)}"
    return result


def _overrides(experiment: str) -> dict[str, Any]:
    """The choices that an experiment's file makes."""
    path = conf_dir() / "experiment" / f"{experiment}.yaml"
    stated = (yaml.safe_load(path.read_text()) or {}).get("defaults", []) if path.is_file() else []
    pairs = [item for entry in stated if isinstance(entry, dict) for item in entry.items()]
    return {key.removeprefix("override").strip().lstrip("/"): option for key, option in pairs}


def _stated(name: str, prefix: str) -> dict[str, str]:
    """The leaves that a file of conf/ states, each with the file's name."""
    path = conf_dir() / name
    content = yaml.safe_load(path.read_text()) if path.is_file() else {}
    leaves = flatten({key: value for key, value in content.items() if key not in ("defaults", "hydra")})
    return {prefix + key: f"conf/{name}" for key, _ in leaves}


def _signature(config: Mapping[str, Any], key: str) -> str:
    group, *rest = key.split(".")
    section = config[group][rest[0]] if group in STACKED else config[group]
    entry = registry.entry(group, section["name"])
    return entry.factory.__name__


def parameters(config: Mapping[str, Any], facts: Facts) -> int:
    """The number of the network's trained parameters, counted without memory for them."""
    with torch.device("meta"):
        return sum(item.numel() for item in build_denoiser(config, facts).network.parameters())


def explain(config: dict[str, Any], arguments: Sequence[str]) -> None:
    """Print the resolved config with where each value came from, and what the run would cost."""
    console = Console()
    table = Table(title="resolved config", header_style="bold")
    for column in ("key", "value", "from"):
        table.add_column(column, overflow="fold")
    source = origins(config, arguments)
    for key, value in flatten(config):
        table.add_row(key, Text(str(value)), source[key])
    console.print(table)

    data = build_data(config)
    facts = Facts.of(data, config)
    sampler = build_sampler(config)
    denoiser = build_denoiser(config, facts)
    guided = build_wrappers(config, facts, is_conditional(denoiser))(denoiser)
    check_fit(denoiser, guided.schedule, sampler, build_variance(config))
    count = parameters(config, facts)
    trainer = config["trainer"]
    accumulate = trainer.get("accumulate_grad_batches", 1)
    count_processes = processes(trainer)
    local = config["batch_size"] // max(1, accumulate * count_processes)
    sampled = {}
    if (evaluation := config["callbacks"].get("evaluation")) and "num_samples" in config["metric"]:
        classes = facts.num_classes if is_conditional(denoiser) else 0
        chunk = measure_chunk(sampler, guided, facts.shape, classes, torch.device("cpu"))
        size = chunk_size(evaluation["batch_size"], lambda: chunk, torch.device("cpu"))
        size = min(size, -(-config["metric"]["num_samples"] // count_processes))
        sampled["memory of drawing samples"] = describe_sampling_memory(denoiser.network, chunk, size)
    cost = Table(title="the run", show_header=False)
    images = trainer["max_steps"] * config["batch_size"]
    for name, value in (
        (
            "data",
            f"{config['data']['name']}: {len(data.train)} training, {len(data.test)} held-out, shape {data.shape}",
        ),
        ("global batch", f"{config['batch_size']} = {count_processes} processes x {accumulate} accumulated x {local}"),
        ("examples seen", f"{images:,} = {images / len(data.train):.1f} epochs"),
        ("parameters", f"{count:,}"),
        ("memory per process, estimated", describe_memory(config, facts, local)),
        *sampled.items(),
        ("network evaluations per sample", evaluations(sampler)),
    ):
        cost.add_row(name, value)
    console.print(cost)


def evaluations(sampler: Sampler) -> str:
    """How often a sampler asks the network for one sample."""
    per_step = sampler.evaluations_per_step
    return "as many as its tolerance takes" if per_step is None else f"{sampler.steps * per_step:,}"
