"""Handwritten digits, shipped with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from diffusion_fw.data.dataset import Data, InMemory
from diffusion_fw.data.split import held_out
from diffusion_fw.registry import register

ASSET = Path(__file__).parent / "assets" / "digits.npz"


@register("data", "digits")
@dataclass(frozen=True)
class Digits(Data):
    """1,797 scans of handwritten digits, 8x8 pixels, ten classes (UCI optical digits).

    A pixel is round(255 v / 16), where v in 0 .. 16 counts the black points in a 4x4 block of the scan (Alpaydin &
    Kaynak 1998). Every fifth scan of each class is held out: 1,438 for training, 359 for testing.
    """

    default_features: ClassVar[str] = "digits"

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, 8, 8)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple("0123456789")

    def load(self, split: str) -> InMemory:
        with np.load(ASSET) as file:
            counts, labels = torch.from_numpy(file["values"]), torch.from_numpy(file["labels"]).long()
        chosen = held_out(labels) == (split == "test")
        pixels = (counts[chosen].double() * 255 / 16).round().to(torch.uint8)
        return InMemory(pixels.unsqueeze(1), labels[chosen])
