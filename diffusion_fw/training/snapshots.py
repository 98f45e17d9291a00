"""The files of snapshots: averages of a run's weights at regular steps, of which averages of other lengths are made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffusion_fw.cache import DIGEST, digest
from diffusion_fw.files import open_regular
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.power_profile import Profile

FOLDER = "snapshots"
"""The name of the folder, beside that of the checkpoints."""


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

        Raises ConfigError for shapes other than in ``like``, another type, and a tensor whose hash is not that of its
        values. Version 0.1.0 wrote no hashes.
        """
        with safe_open(self.path, framework="pt") as file:
            names = set(file.keys())
            digests = file.get_tensor(DIGEST) if DIGEST in names else None
            for place, key in enumerate(sorted(names - {DIGEST})):
                number, _, name = key.partition(".")
                if number != str(index):
                    continue
                part = file.get_slice(key)
                if name not in like or tuple(part.get_shape()) != tuple(like[name].shape) or part.get_dtype() != "F32":
                    raise ConfigError(f"{self.path} holds the weights of another network: {name}")
                value = file.get_tensor(key)
                if digests is not None and not torch.equal(digests[place : place + 1], self.digest(key, value)[None]):
                    raise _damaged(self.path, f"the hash of {key} is not that of its values")
                yield name, value

    def digest(self, key: str, value: Tensor) -> Tensor:
        """The hash of a tensor, of its name, and of the step and the lengths of the averages."""
        return digest(f"{self.step} {self.stds}", {key: value})


def _damaged(path: Path, reason: object) -> ConfigError:
    return ConfigError(f"{path} is damaged; move it away to continue without it: {reason}")


def before(folder: Path, step: int) -> list[Snapshot]:
    """The snapshots taken before ``step``, in order. Raises ConfigError for a damaged one."""
    found = []
    for path in sorted(folder.glob("step_*.safetensors")):
        taken = re.fullmatch(r"step_(\d{1,15})\.safetensors", path.name)
        if not taken or not 0 < int(taken[1]) < step:
            continue
        try:
            # Opening a pipe by its name would wait for a writer.
            with open_regular(path), safe_open(path, framework="pt") as file:
                stds = tuple(Profile(float(std), 1.0).std for std in json.loads((file.metadata() or {})["stds"]))
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise _damaged(path, error) from None
        found.append(Snapshot(path, int(taken[1]), stds))
    return found
