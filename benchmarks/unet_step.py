"""A training step of a U-Net of 9.5 million parameters, against the same network in diffusers with accelerate."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffusion_fw as dfw
from benchmarks.row import Missing, Row, installed
from benchmarks.timing import compared
from benchmarks.training_step import trained

SHAPE, CHANNELS, BATCH, WARMUP, STEPS, ROUNDS = (3, 32, 32), 96, 32, 1, 3, 5
NAME = f"training step, U-Net of 9.5 M parameters, batch {BATCH} of 3x32x32, float32, EMA"
AIM = 1.15


def diffusers(examples: Tensor) -> float:
    """Seconds of a step of the library's training script: UNet2DModel, accelerate, clipping, AdamW, EMAModel."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel

    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    model: Any = UNet2DModel(
        sample_size=SHAPE[-1],
        in_channels=SHAPE[0],
        out_channels=SHAPE[0],
        layers_per_block=1,
        block_out_channels=(CHANNELS, 2 * CHANNELS, 2 * CHANNELS),
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
    )
    average = EMAModel(model.parameters(), decay=0.9999, model_cls=UNet2DModel, model_config=model.config)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=2e-4))
    scheduler: Any = DDPMScheduler(num_train_timesteps=1000)
    begin = 0.0
    for step in range(STEPS):
        if step == WARMUP:
            begin = time.perf_counter()
        clean = examples[torch.randint(len(examples), (BATCH,))]
        noise, times = torch.randn_like(clean), torch.randint(1000, (BATCH,))
        with accelerator.accumulate(model):
            loss = (model(scheduler.add_noise(clean, noise, times), times).sample - noise).square().mean()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        average.step(model.parameters())
    return (time.perf_counter() - begin) / (STEPS - WARMUP)


def ours(examples: Tensor, folder: Path) -> float:
    torch.manual_seed(0)
    network = dfw.build("network", "unet", shape=SHAPE, channels=CHANNELS)
    return trained(network, examples, folder, batch=BATCH, warmup=WARMUP, steps=STEPS)


def measure() -> Iterator[Row | Missing]:
    if not (installed("diffusers") and installed("accelerate")):
        yield Missing(NAME, "diffusers and accelerate")
        return
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    examples = torch.randn(4 * BATCH, *SHAPE)
    with tempfile.TemporaryDirectory() as folder:
        pairs = [(ours(examples, Path(folder) / str(index)), diffusers(examples)) for index in range(ROUNDS)]
    yield compared(NAME, "diffusers, accelerate and EMAModel", pairs, 1 / AIM)
