"""explain=true: print what a run would be and what it would cost, without running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffusion_fw.app.codec import with_codec
from diffusion_fw.app.memory import describe_memory, describe_sampling_memory
from diffusion_fw.app.speed import describe as describe_speed
from diffusion_fw.checkpoints.read import checkpoint_of, read
from diffusion_fw.checkpoints.warm_start import warm_start
from diffusion_fw.composition.checks import processes
from diffusion_fw.composition.experiment import plain
from diffusion_fw.composition.parts import Parts, compose_parts
from diffusion_fw.config.application import Asked
from diffusion_fw.config.compose import flatten
from diffusion_fw.config.origins import origin_of, origins
from diffusion_fw.registry import OWN
from diffusion_fw.samplers.sampler import Sampler
from diffusion_fw.sampling.chunk import chunk_size, measure_chunk
from diffusion_fw.training.archive import RECORD_KEY


def explain(config: dict[str, Any], asked: Asked) -> None:
    """Print the resolved config with the origin of each value, and what the run would cost.

    Raises ConfigError where training would, before it prints anything.
    """
    parts = compose_parts(with_codec(config, None))
    weights = None
    if config["init_from"] and not config["resume"]:
        module = SimpleNamespace(denoiser=parts.denoiser, tracks=list)
        weights = warm_start(module, config["init_from"], raw_weights=config["init_raw_weights"], space=parts.space)
    console = Console()
    print_tables(console, rows(config, asked), costs(config, parts))
    if weights:
        console.print(weights, markup=False, highlight=False, soft_wrap=True)


def explain_trained(config: dict[str, Any], asked: Asked) -> None:
    """Print the config of sample.py or evaluate.py with the model's own parts, and the origin of each value.

    Raises ConfigError where the program would before it draws.
    """
    from diffusion_fw.app.sample_source import open_source
    from diffusion_fw.app.trained_model import open_trained

    if config.get("samples"):
        source, known = open_source(config), origins(asked)
        table = [(key, value, origin_of(key, known)) for key, value in flatten(source.config)]
        print_tables(Console(), table, source.rows(True))
        return
    model = open_trained(config)
    model.check_sampler()
    table = trained_rows(config, model.complete, model.record["config"], asked)
    cost = {
        "weights": f"{model.choice.name}: {sum(item.numel() for item in model.network.parameters()):,} parameters",
        "memory, estimated": model.memory(config.get("num_samples", model.batch_size)),
        "network evaluations per sample": evaluations(model.sampler),
    }
    print_tables(Console(), table, cost)


def print_tables(console: Console, config: Sequence[tuple[str, Any, str]], cost: Mapping[str, str]) -> None:
    """Print a config with the origins of its values, and what a run takes."""
    table = Table(title="resolved config", header_style="bold")
    for column in ("key", "value", "from"):
        table.add_column(column, overflow="fold")
    for key, value, origin in config:
        table.add_row(key, Text(str(value)), Text(origin))
    console.print(table)
    costs = Table(title="the run", show_header=False)
    for name, text in cost.items():
        costs.add_row(name, text)
    console.print(costs)


def trained_rows(
    given: Mapping[str, Any], used: Mapping[str, Any], trained: Mapping[str, Any], asked: Asked
) -> list[tuple[str, Any, str]]:
    """Every key of the config ``used`` with its value and origin, where the ``given`` one may leave it to the model."""
    known = origins(asked)

    def origin(key: str) -> str:
        group, _, rest = key.partition(".")
        section = given.get(group)
        own = isinstance(section, Mapping) and (OWN in section or section.get("name") == OWN)
        if not own or (rest and not rest.endswith("name") and key in known):
            return origin_of(key, known)
        if own and (name := key.removesuffix(".name")) != key and name != group and name in known:
            return known[name]
        return f"checkpoint={given['checkpoint']}" if group in trained else "default, as the checkpoint names none"

    return [(key, value, origin(key)) for key, value in flatten(used)]


def rows(config: Mapping[str, Any], asked: Asked) -> list[tuple[str, Any, str]]:
    """Every key of a checked config with its value and origin; of a resumed run what it keeps comes from the run."""
    known = origins(asked)
    kept: dict[str, Any] = {}
    if config["resume"]:
        kept = dict(flatten(read(checkpoint_of(config["resume"]))[RECORD_KEY]["config"]))
    return [
        (
            key,
            value,
            f"resume={config['resume']}" if key in kept and kept[key] == plain(value) else origin_of(key, known),
        )
        for key, value in flatten(config)
    ]


def costs(config: Mapping[str, Any], parts: Parts) -> dict[str, str]:
    """What a run reads, takes and holds in memory."""
    data, trainer = parts.data, config["trainer"]
    accumulate, count = trainer.get("accumulate_grad_batches", 1), processes(config)
    local = config["batch_size"] // (accumulate * count)
    images = trainer["max_steps"] * config["batch_size"]
    sampled = {}
    if evaluation := config["callbacks"].get("evaluation"):
        guided = parts.wrap(parts.denoiser)
        takes_class = parts.conditioner.num_classes > 0

        def told(indices: Sequence[int]) -> Any:
            return parts.facts.blank(len(indices), takes_class=takes_class)

        chunk = measure_chunk(parts.sampler, guided, parts.facts.shape, told, torch.device("cpu"))
        size = chunk_size(evaluation["batch_size"], lambda: chunk, torch.device("cpu"))
        size = min(size, -(-parts.metric.num_samples // count))
        sampled["memory of drawing samples"] = describe_sampling_memory(parts.denoiser.network, chunk, size)
    return {
        "data": f"{config['data']['name']}: {data.describe()}",
        "global batch": f"{config['batch_size']} = {count} processes x {accumulate} accumulated x {local}",
        "examples seen": f"{images:,} = {images / len(data.train):.1f} epochs",
        "parameters": f"{sum(item.numel() for item in parts.denoiser.network.parameters()):,}",
        "memory per process, estimated": describe_memory(config, parts.facts, local),
        **sampled,
        "speed, from a few steps": describe_speed(config, parts, local, count),
        "network evaluations per sample": evaluations(parts.sampler),
    }


def evaluations(sampler: Sampler) -> str:
    """How often a sampler evaluates the network for one sample."""
    per_step = sampler.evaluations_per_step
    return (
        "as many as its tolerance needs"
        if per_step is None
        else f"{sampler.steps * per_step - sampler.evaluations_saved:,}"
    )
