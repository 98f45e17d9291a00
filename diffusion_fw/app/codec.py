"""The codec of a training run: where its file is, training it first, and how well it reconstructs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffusion_fw import registry
from diffusion_fw.codecs.codec import FILE
from diffusion_fw.composition.checks import processes
from diffusion_fw.composition.experiment import Experiment, plain
from diffusion_fw.composition.parts import NO_CODEC, build_data
from diffusion_fw.data.dataset import evenly_spaced, to_model
from diffusion_fw.files import atomic_write, default_cache, open_regular
from diffusion_fw.pictures.view import Stamped, view_for
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.callbacks.reconstruction import SHOWN, draw_pairs

DECIDES = ("network", "objective", "optimizer", "lr_schedule", "ema", "batch_size", "seed")
"""What of the training of a codec, besides its data and its steps, decides what it becomes."""
MOST = 1000
"""Held-out examples on which the error of reconstruction is measured."""


def with_codec(config: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """The config with the place of its codec's file.

    A run that continues has it beside its checkpoint. Where codec.path is left out, the file is in the cache, or the
    codec is trained first, in ``folder``/codec; without a ``folder`` it is not trained. Raises ConfigError where it
    cannot be.
    """
    section = config.get("codec") or NO_CODEC
    if section["name"] == NO_CODEC["name"]:
        return config
    if "path" not in registry.entry("codec", section["name"]).parameters:
        return config
    if config["resume"] and folder is not None:
        beside = folder / "checkpoints" / FILE
        if not beside.is_file():
            raise ConfigError(f"resume={config['resume']}: there is no {beside}, the codec of the run; put it there")
        return {**config, "codec": {**section, "path": os.fspath(beside)}}
    if section.get("path") is not None or "experiment" not in section:
        return config
    own = training_of(config)
    kept = default_cache() / "codecs" / f"{key_of(own)}.safetensors"
    if not kept.is_file():
        if folder is None:
            return config
        train_codec(own, folder / "codec", kept)
    return {**config, "codec": {**section, "path": os.fspath(kept)}}


def training_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the training of a model's codec: its experiment, on the data and with the seed of the model."""
    from diffusion_fw.app.library import compose
    from diffusion_fw.config.compose import checked

    composed: dict[str, Any] = dict(compose([f"experiment={config['codec']['experiment']}"]))
    objective = registry.entry("objective", composed["objective"]["name"])
    if not getattr(objective.factory, "trains_autoencoder", False):
        raise ConfigError(
            f"codec.experiment={config['codec']['experiment']} trains no codec; choose codec.experiment=autoencoder, "
            "or one with objective=autoencoder"
        )
    trainer = {**composed["trainer"]}
    if "accelerator" in config["trainer"] and "accelerator" in trainer:
        trainer["accelerator"] = config["trainer"]["accelerator"]
    if processes(config) > 1:
        raise ConfigError(
            f"codec.path: a run of {processes(config)} processes does not train its codec; run "
            f"`python train.py experiment={config['codec']['experiment']}` first, and give codec.path=..."
        )
    given = {"data": config["data"], "seed": config["seed"], "trainer": trainer, "logger": {}}
    return checked("train", {**composed, **given})


def key_of(config: Mapping[str, Any]) -> str:
    """A hash of all on which a trained codec depends."""
    decides = {key: plain(config[key]) for key in DECIDES}
    what = [decides, config["trainer"]["max_steps"], build_data(config).train.fingerprint()]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]


def train_codec(config: dict[str, Any], folder: Path, kept: Path) -> None:
    """Train a codec in ``folder``, and keep its file as ``kept``."""
    from diffusion_fw.app.train import train

    print(f"the codec is trained first, in {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    train(config, folder)
    with open_regular(folder / "checkpoints" / FILE) as file:
        content = file.read()
    with atomic_write(kept) as file:
        file.write(content)
    print(f"the codec is kept as {kept}")


@dataclass(frozen=True)
class Quality:
    """How well a codec reconstructs: what a model of its latents can reach at best."""

    error: float
    """The mean square error per value of held-out examples, for data in [0, 1]."""
    distance: float | None
    """The distance of the reconstructions of real training examples, as the metric measures it; None without one."""
    picture: Path

    def rows(self) -> dict[str, str]:
        """For a table."""
        rows = {"error of the codec, mean square of [0, 1]": f"{self.error:.3g}"}
        if self.distance is not None:
            rows["floor of latents: decoded training examples"] = f"{self.distance:.4g}"
        return rows


@torch.no_grad()
def quality_of(experiment: Experiment, device: torch.device, folder: Path, record: Mapping[str, Any]) -> Quality:
    """Measure the codec of a run, and draw held-out examples above their reconstructions into ``folder``."""
    data, space, metric = experiment.data, experiment.space, experiment.metric
    x0 = to_model(data.test.__getitems__(evenly_spaced(len(data.test), MOST))[0]).to(device)
    back = space.decode(space.encode(x0))
    low, high = space.bounds
    error = float(((back - x0) / (high - low)).square().double().mean())
    view = Stamped(view_for(space.shape, space.bounds), dict(record))
    some = evenly_spaced(len(x0), SHOWN)
    picture = draw_pairs(view, folder / "real_and_decoded.png", torch.stack([x0[some], back[some]]).cpu())
    distance = None
    if metric.measures:
        # Where the metric has a floor of some real examples, those.
        chosen: Any = getattr(metric, "chosen", None)
        other: Any = getattr(metric, "other", None)
        real, found = chosen(other, metric.num_samples) if chosen else (data.originals, range(len(data.originals)))
        # As many as samples are drawn: where there are fewer, they are taken again.
        indices = [found[index % len(found)] for index in range(metric.num_samples)]
        metric.reset()
        metric.to(device)
        for first in range(0, len(indices), MOST):
            values = real.__getitems__(indices[first : first + MOST])[0]
            metric.update(space.examples(space.encode(to_model(values).to(device))))
        distance = float(metric.compute())
        metric.reset()
    return Quality(error, distance, picture)
