"""How fast a config trains on this machine, from a few steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from diffusion_fw.app.device import choose
from diffusion_fw.composition.parts import Parts, assemble, lay_out
from diffusion_fw.condition import on
from diffusion_fw.data.dataset import to_model
from diffusion_fw.noise import batch_noise, generator
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.ema import Weights

SECONDS = 1.0
"""Roughly the time that is spent on the measured steps."""

DEVICES = {"cpu": "cpu", "gpu": "cuda", "mps": "mps"}


@dataclass(frozen=True)
class Speed:
    """Training steps of ``batch`` examples on one device."""

    device: torch.device
    batch: int
    images_per_second: float


def measure(config: Mapping[str, Any], parts: Parts, local_batch: int) -> Speed:
    """Time training steps with the optimizer and the averages, uncompiled.

    The batch grows from 1 to ``local_batch`` as long as a step takes less than half of SECONDS. The weights of
    ``parts`` stay as they are.
    """
    device = choose(DEVICES.get(config["trainer"].get("accelerator", "auto"), "auto"))
    # An objective may have parameters too.
    model: Any = torch.nn.Module()
    model.denoiser, model.objective = denoiser, objective = copy.deepcopy((parts.denoiser, parts.objective))
    model.to(device)
    lay_out(model, device)
    averages = [(track, Weights.of(copy.deepcopy(denoiser))) for track in parts.averages.tracks]
    trained = [item for item in model.parameters() if item.requires_grad]
    weights = Weights.of(denoiser)
    optimizer = assemble("optimizer", config["optimizer"], params=trained)
    mixed = str(config["trainer"].get("precision", 32)).endswith("-mixed")

    examples = parts.told.examples(parts.latents, "train")

    def step(batch: int) -> None:
        values, given = examples.__getitems__([index % len(examples) for index in range(batch)])
        x0 = to_model(values.to(device))
        eps = batch_noise(x0, (0,))
        level = denoiser.schedule(parts.time_sampler(batch, denoiser.schedule, generator(0)))
        cond = parts.told.whole(x0, on(given, device), torch.randn_like)
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            loss = objective(denoiser, x0, level, eps, cond).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        for track, averaged in averages:
            track.update(averaged, weights, 1, optimizer)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    step(1)  # The first one is slower.
    batch, seconds = 1, timed(step, 1)
    while batch < local_batch and seconds < SECONDS / 2:
        batch = min(2 * batch, local_batch)
        step(batch)
        seconds = timed(step, batch)
    repeats = max(1, int(SECONDS / seconds))
    seconds = min([seconds, *(timed(step, batch) for _ in range(min(repeats, 5)))])
    return Speed(device, batch, batch / seconds)


def timed(step: Any, batch: int) -> float:
    """The seconds of one step."""
    begin = time.perf_counter()
    step(batch)
    return time.perf_counter() - begin


def describe(config: Mapping[str, Any], parts: Parts, local_batch: int, processes: int) -> str:
    """Images a second and the time of all steps as text, or the reason why it was not measured."""
    try:
        speed = measure(config, parts, local_batch)
    except ConfigError as error:
        return f"not measured: {error}"
    except (MemoryError, RuntimeError) as error:
        return f"not measured: {type(error).__name__}: {str(error).splitlines()[0]:.100}"
    hours = config["trainer"]["max_steps"] * config["batch_size"] / (speed.images_per_second * processes) / 3600
    span = f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:,.1f} min"
    return (
        f"{speed.images_per_second:,.0f} images/s on {speed.device} in steps of {speed.batch}, so {span} for "
        f"{config['trainer']['max_steps']:,} steps without evaluation"
        + (f" on {processes} such devices" if processes > 1 else "")
    )
