"""Bits per dimension on MNIST: a training of minutes, then the variational bound on held-out images."""

from __future__ import annotations

import json
from typing import Any

import torch
from omegaconf import OmegaConf

import diffusion_fw as dfw
from benchmarks.device.card import ROOT, device, release, seconds_per_call
from benchmarks.device.command import run as program
from benchmarks.device.command import train
from benchmarks.device.ddpm import bare_step
from benchmarks.device.options import TINY, Options
from benchmarks.device.record import Record

EVALUATION = 55
"""Seconds that are kept for the evaluation."""
START = 25
"""Seconds until train.py takes its first step, and from its last to its end."""
PUBLISHED = 0.97
"""Bits per dimension of Residual Flows on MNIST (Chen et al. 2019, table 3)."""


def run(record: Record, options: Options) -> None:
    root = options.data / "mnist" if options.data else None
    if root is None or not root.is_dir():
        record.add("bits per dimension on MNIST", "left out: give --data FOLDER with mnist/ in it")
        return
    words = ("experiment=mnist_likelihood", f"data.root={root.resolve()}", "callbacks=[health,checkpoints]")
    size = (*TINY, "network.num_res_blocks=1") if options.toy else ("callbacks.checkpoints.every=500",)

    def trained() -> dict[str, Any]:
        steps = affordable(record.left - EVALUATION - START, options)
        timeout = record.left - (2 if options.toy else EVALUATION)
        done = train(
            options.work / "mnist", options.trainer, *words, *size, f"trainer.max_steps={steps}", timeout=timeout
        )
        (*_, (step, speed)) = done.column("train/images_per_second")
        return {"text": f"{step} steps in {done.seconds:.1f} s, {speed:,.0f} images/s", "seconds": done.seconds}

    def bits() -> dict[str, Any]:
        folder = options.work / "bits"
        few = ("metric.num_images=2", "metric.steps=4") if options.toy else ("metric.num_images=256", "batch_size=256")
        checkpoint = f"checkpoint={options.work / 'mnist' / 'checkpoints' / 'last.ckpt'}"
        done = program(
            "evaluate.py", folder, checkpoint, "metric=nll", "metric.flow_images=0", *few, timeout=record.left
        )
        found = json.loads((folder / "evaluation.json").read_text())
        found.pop("results")
        value, error = found["bits_per_dim"], found["standard_error"]
        text = f"bound {value:.3f} ± {error:.3f} bits/dim ({found['images']} images, {found['steps']} steps)"
        return {"text": text, "ok": None if options.toy else value <= PUBLISHED, "seconds": done.seconds, **found}

    record.measure("train.py experiment=mnist_likelihood", trained)
    # Of a run that was stopped for want of time the last checkpoint is evaluated.
    record.measure("evaluate.py metric=nll", bits)


def affordable(seconds: float, options: Options) -> int:
    """The steps of the network that take so long, from a bare step's own time."""
    torch.backends.cudnn.benchmark = True
    chosen: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "experiment" / "mnist_likelihood.yaml"))
    small = {"channels": 4, "channel_mult": [1]} if options.toy else {}
    settings = {**chosen["network"], "class_conditional": False, **small}
    model = dfw.build("network", "unet", shape=(1, 28, 28), **settings).to(device())
    step = bare_step(model, 8 if options.toy else chosen["batch_size"], "bf16", shape=(1, 28, 28))
    each = seconds_per_call(step, within=0.1 if options.toy else 1.0)
    del model, step
    release()
    return 4 if options.toy else max(500, int(0.93 * seconds / each))
