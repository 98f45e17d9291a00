"""A training step of a small MLP in the framework, against a bare loop with the same arithmetic."""

from __future__ import annotations

import copy
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch
import torch
from torch import nn

import diffusion_fw as dfw
from benchmarks.row import Row
from benchmarks.timing import compared
from diffusion_fw.data.dataset import InMemory
from diffusion_fw.training.callbacks.history import History
from diffusion_fw.training.module import DiffusionModule

STEPS, WARMUP, BATCH, ROUNDS = 400, 100, 256, 5
BOUND = 1.4


def network() -> nn.Module:
    torch.manual_seed(0)
    result: nn.Module = dfw.build("network", "mlp", shape=(2,))
    return result


class Clock(lightning.pytorch.Callback):
    """Measures the seconds of a step after the warm-up."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.seconds = warmup, 0.0

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.warmup:
            self.begin = time.perf_counter()
        if trainer.global_step == trainer.max_steps:
            self.seconds = (time.perf_counter() - self.begin) / (trainer.max_steps - self.warmup)


def ours(points: torch.Tensor, folder: Path, *watches: lightning.pytorch.Callback) -> float:
    """Seconds of a step of the default MLP on points."""
    return trained(network(), points, folder, *watches, batch=BATCH, warmup=WARMUP, steps=STEPS)


def trained(
    model: nn.Module,
    examples: torch.Tensor,
    folder: Path,
    *watches: lightning.pytorch.Callback,
    batch: int,
    warmup: int,
    steps: int,
) -> float:
    """Seconds of a step after the warm-up: the LightningModule with EMA, clipping, history and metrics.csv."""
    module = DiffusionModule(
        dfw.NetworkDenoiser(model, dfw.build("schedule", "linear"), dfw.build("parameterization", "epsilon")),
        dfw.build("objective", "simple", weighting=dfw.build("weighting", "native")),
        dfw.build("time_sampler", "uniform"),
        dfw.build("ema", "exponential"),
        optimizer=lambda params: dfw.build("optimizer", "adamw", params=params),
        lr_schedule=dfw.build("lr_schedule", "constant", max_steps=steps),
        examples=InMemory(examples),
        batch_size=batch,
        seed=0,
    )
    clock = Clock(warmup)
    trainer = dfw.build(
        "trainer",
        "default",
        max_steps=steps,
        accelerator="cpu",
        loggers=[dfw.build("logger", "csv", folder=folder)],
        callbacks=[History(50), dfw.build("callbacks", "progress", history=History(50)), *watches, clock],
        folder=folder,
    )
    trainer.fit(module)
    return clock.seconds


def bare(points: torch.Tensor) -> float:
    """The same step written by hand: index, noise, loss, clip, AdamW, average."""
    model = network()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, weight_decay=0.0, fused=True)
    schedule: Any = dfw.build("schedule", "linear")
    table = schedule.table
    alpha, sigma = table.alpha.float(), table.sigma.float()
    begin = 0.0
    for step in range(STEPS):
        if step == WARMUP:
            begin = time.perf_counter()
        x0 = points[torch.randint(len(points), (BATCH,))]
        k = torch.randint(1, 1001, (BATCH,))
        eps = torch.randn_like(x0)
        loss = (model(alpha[k, None] * x0 + sigma[k, None] * eps, k.float() - 1, None) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1e-3)
    return (time.perf_counter() - begin) / (STEPS - WARMUP)


def measure() -> Iterator[Row]:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    points = torch.randn(4096, 2)
    with tempfile.TemporaryDirectory() as folder:
        pairs = [(ours(points, Path(folder) / str(index)), bare(points)) for index in range(ROUNDS)]
    yield compared(f"training step, default MLP on 2-D points, batch {BATCH}", "a bare loop", pairs, BOUND)
