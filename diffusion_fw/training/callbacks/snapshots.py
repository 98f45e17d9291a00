"""Snapshots of a run's averages at regular steps, from which averages of other lengths are made after training."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusion_fw.files import atomic_write
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.callbacks.step_callback import StepCallback
from diffusion_fw.training.os_errors import log_os_errors
from diffusion_fw.training.power_profile import Profile

FOLDER = "snapshots"
"""The name of the folder, beside that of the checkpoints."""


class Snapshots(StepCallback):
    """Writes the parameters of every average to ``folder/step_*.safetensors`` every ``every`` steps, in float32.

    Files are written atomically. A resumed run writes those after its checkpoint again, identical to the bit.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    def after_step(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        if step % self.every or not trainer.is_global_zero:
            return
        lengths = [track.length["std"] for track in module.averages.tracks]
        tensors = {
            f"{index}.{name}": value.detach().to("cpu", torch.float32).contiguous()
            for index, (_, averaged) in enumerate(module.tracks())
            for name, value in averaged.named_parameters()
        }
        # One entry of metadata only: safetensors writes several in an order that changes from run to run.
        content = save(tensors, metadata={"stds": json.dumps(lengths)})
        path = self.folder / f"step_{step:09d}.safetensors"
        then = "training continues, and averages are reconstructed without the missing snapshots"
        with log_os_errors(f"writing into {self.folder}", then), atomic_write(path) as file:
            file.write(content)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot file: the step at which it was taken and the lengths of its averages."""

    path: Path
    step: int
    stds: tuple[float, ...]

    @property
    def profiles(self) -> list[Profile]:
        return [Profile(std, self.step) for std in self.stds]

    def parameters(self, index: int, like: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The parameters of average ``index``, one at a time, float32.

        Raises ConfigError for shapes other than in ``like``, and for another type.
        """
        with safe_open(self.path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a mapping
                number, _, name = key.partition(".")
                if number != str(index):
                    continue
                part = file.get_slice(key)
                if name not in like or tuple(part.get_shape()) != tuple(like[name].shape) or part.get_dtype() != "F32":
                    raise ConfigError(f"{self.path} holds the weights of another network: {name}")
                yield name, file.get_tensor(key)


def before(folder: Path, step: int) -> list[Snapshot]:
    """The snapshots taken before ``step``, in order. Raises ConfigError for a damaged one."""
    found = []
    for path in sorted(folder.glob("step_*.safetensors")):
        taken = re.fullmatch(r"step_(\d{1,15})\.safetensors", path.name)
        if not taken or not 0 < int(taken[1]) < step:
            continue
        try:
            with safe_open(path, framework="pt") as file:
                stds = tuple(Profile(float(std), 1.0).std for std in json.loads((file.metadata() or {})["stds"]))
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise ConfigError(f"{path} is damaged; move it away to continue without it: {error}") from None
        found.append(Snapshot(path, int(taken[1]), stds))
    return found
