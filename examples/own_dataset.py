"""A Dataset of your own as data: registered under a name, it is a choice of the config like the built-in ones.

`python examples/own_dataset.py`. In a file in plugins/, the class serves `python train.py data=rings` as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

import diffusion_fw as dfw


class Rings(Dataset[tuple[Tensor, int]]):
    """Points on circles, with the number of the circle as label: any Dataset of torch will do."""

    classes = ("inner", "outer")

    def __init__(self, count: int, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(2, (count,), generator=random)
        angle = 2 * math.pi * torch.rand(count, generator=random)
        radius = 0.5 + self.labels + 0.05 * torch.randn(count, generator=random)
        self.points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.points[index], int(self.labels[index])


@dfw.register("data", "rings")
@dataclass(frozen=True)
class RingsData(dfw.DatasetData):
    """Two circles, whose points are drawn from a seed for each split."""

    count: dfw.PositiveInt = 5000

    def dataset(self, split: str) -> Rings:
        return Rings(self.count, seed=0 if split == "train" else 1)


def main(folder: Path, overrides: tuple[str, ...] = ("trainer.max_steps=2000",)) -> Tensor:
    """Train on the rings, and draw the outer one."""
    # Without a name, in Python alone: the same checks and facts.
    print(dfw.MapDataset(Rings(100, seed=0), Rings(50, seed=1)).describe())

    dfw.train(dfw.compose(["data=rings", "network=mlp", "network.class_conditional=true", *overrides]), folder / "run")
    words = [f"checkpoint={folder / 'run' / 'checkpoints' / 'last.ckpt'}", "class=outer", "num_samples=200"]
    points = dfw.sample(dfw.compose(words, "sample"), folder / "samples").arrays["samples"]
    print(f"the outer circle has the radius 1.5, {len(points)} samples have {points.norm(dim=1).mean():.2f}")
    return points


if __name__ == "__main__":
    main(Path("outputs/own_dataset"))
