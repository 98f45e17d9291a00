"""Short clips of digits that move and bounce, made from the scans that are shipped with the package."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from diffusion_fw.data.dataset import Data, InMemory
from diffusion_fw.data.digits import Digits
from diffusion_fw.noise import generator
from diffusion_fw.registry import NonNegative, NonNegativeInt, Range, register

SIDE = 8
"""Of a scan."""


@register("data", "moving_digits")
@dataclass(frozen=True)
class MovingDigits(Data):
    """``num_examples`` clips (1, frames, size, size) in each split: a digit moves evenly and bounces at edges.

    As Moving MNIST (Srivastava et al. 2015, section 4.1), with one digit of 8x8 pixels of ``data=digits``, which is the
    class. Its corner is at r(p + t v) in frame t, rounded, with p uniform, v of ``speed`` pixels a frame in a uniform
    direction, and the triangle wave r that reflects at 0 and size - 8. Training clips show training digits, and
    held-out clips held-out ones. Clip i is a function of the seed and i.
    """

    num_examples: Annotated[int, Range(1, 1_000_000)] = 5_000
    frames: Annotated[int, Range(2, 1000)] = 8
    size: Annotated[int, Range(SIDE, 1024)] = 16
    speed: NonNegative = 2.0
    seed: NonNegativeInt = 0

    default_features: ClassVar[str] = "moving_digits"

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, self.frames, self.size, self.size)

    @property
    def class_names(self) -> tuple[str, ...]:
        return Digits().class_names

    def load(self, split: str) -> InMemory:
        scans = Digits().load(split)
        assert scans.labels is not None
        draws = torch.rand(
            self.num_examples, 4, generator=generator(self.seed, int(split == "test")), dtype=torch.float64
        )
        chosen = (len(scans) * draws[:, 0]).long()
        corners = self.corners(draws[:, 1:])
        clips = torch.zeros(self.num_examples, self.frames, self.size, self.size, dtype=torch.uint8)
        inside = torch.arange(SIDE)
        rows, columns = (corner[..., None] + inside for corner in corners.unbind(-1))
        clip, frame = torch.arange(self.num_examples)[:, None, None, None], torch.arange(self.frames)[:, None, None]
        clips[clip, frame, rows[..., :, None], columns[..., None, :]] = scans.values[chosen]
        return InMemory(clips.unsqueeze(1), scans.labels[chosen])

    def corners(self, draws: Tensor) -> Tensor:
        """The upper left corners (N, frames, 2), int64 rows and columns, of uniform numbers (N, 3)."""
        room = float(self.size - SIDE)
        angle = 2 * math.pi * draws[:, 2]
        velocity = self.speed * torch.stack([angle.sin(), angle.cos()], dim=1)
        times = torch.arange(self.frames, dtype=torch.float64)[:, None]
        way = room * draws[:, None, :2] + times * velocity[:, None]
        # The triangle wave of period 2 room; without room, the digit stays.
        return (room - (way % (2 * room) - room).abs() if room else torch.zeros_like(way)).round().long()
