"""Snapshots of a run's averages at regular steps, from which averages of other lengths are made after training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning
import torch
from safetensors.torch import save

from diffusion_fw.cache import DIGEST
from diffusion_fw.files import atomic_write
from diffusion_fw.training.callbacks.step_callback import StepCallback
from diffusion_fw.training.os_errors import log_os_errors
from diffusion_fw.training.snapshots import Snapshot


class Snapshots(StepCallback):
    """Writes the parameters of every average to ``folder/step_*.safetensors`` every ``every`` steps, in float32.

    Files are written atomically, with a hash of every tensor. A resumed run writes those after its checkpoint again,
    identical to the bit.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    def after_step(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        if step % self.every or not trainer.is_global_zero:
            return
        lengths = tuple(track.length["std"] for track in module.averages.tracks)
        tensors = {
            f"{index}.{name}": value.detach().to("cpu", torch.float32).contiguous()
            for index, (_, averaged) in enumerate(module.tracks())
            for name, value in averaged.named_parameters()
        }
        path = self.folder / f"step_{step:09d}.safetensors"
        snapshot = Snapshot(path, step, lengths)
        tensors[DIGEST] = torch.stack([snapshot.digest(key, value) for key, value in sorted(tensors.items())])
        # One entry of metadata only: safetensors writes several in an order that changes from run to run.
        content = save(tensors, metadata={"stds": json.dumps(lengths)})
        then = "training continues, and averages are reconstructed without the missing snapshots"
        with log_os_errors(f"writing into {self.folder}", then), atomic_write(path) as file:
            file.write(content)
