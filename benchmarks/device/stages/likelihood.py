"""Bits per dimension on MNIST: a short training, then the variational bound and the probability flow's likelihood."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.device.command import run as program
from benchmarks.device.command import train
from benchmarks.device.options import TINY, Options
from benchmarks.device.record import Record

STEPS = 1000
EVALUATION = 40
"""Seconds that are kept for the evaluation."""


def run(record: Record, options: Options) -> None:
    root = options.data / "mnist" if options.data else None
    if root is None or not root.is_dir():
        record.add("bits per dimension on MNIST", "left out: give --data FOLDER with mnist/ in it")
        return
    words = (
        "data=mnist",
        f"data.root={root.resolve()}",
        "network.class_conditional=false",
        "variance=learned_range",
        "objective=hybrid",
        "ema.rate=0.999",
        "callbacks=[health,checkpoints]",
    )
    size = (
        (*TINY, "trainer.max_steps=4")
        if options.toy
        else (
            "network.channels=64",
            "batch_size=512",
            "optimizer.lr=1e-3",
            f"trainer.max_steps={STEPS}",
            "callbacks.checkpoints.every=100",
        )
    )

    def trained() -> dict[str, Any]:
        timeout = record.left - (2 if options.toy else EVALUATION)
        done = train(options.work / "mnist", options.trainer, *words, *size, timeout=timeout)
        (*_, (step, speed)) = done.column("train/images_per_second")
        return {"text": f"{step} steps in {done.seconds:.1f} s, {speed:,.0f} images/s", "seconds": done.seconds}

    def bits() -> dict[str, Any]:
        folder = options.work / "bits"
        few = (
            ("metric.num_images=2", "metric.flow_images=1", "metric.steps=4")
            if options.toy
            else (
                "metric.num_images=256",
                "metric.flow_images=64",
                "metric.steps=250",
            )
        )
        checkpoint = f"checkpoint={options.work / 'mnist' / 'checkpoints' / 'last.ckpt'}"
        done = program("evaluate.py", folder, checkpoint, "metric=nll", "grid=respaced", *few, timeout=record.left)
        found = json.loads((folder / "evaluation.json").read_text())
        text = f"bound {found['bits_per_dim']:.3f} ± {found['standard_error']:.3f} ({found['images']} images)"
        if "flow_bits_per_dim" in found:
            text += f", flow {found['flow_bits_per_dim']:.3f} ({found['flow_images']} images)"
        return {"text": text, "seconds": done.seconds, **found}

    record.measure("train.py data=mnist", trained)
    # Of a run that was stopped for want of time the last checkpoint is evaluated.
    record.measure("evaluate.py metric=nll", bits)
