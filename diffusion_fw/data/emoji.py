"""Colour emoji, shipped with the package."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion_fw.data.dataset import Data, InMemory
from diffusion_fw.data.split import held_out
from diffusion_fw.registry import Range, register

ASSETS = Path(__file__).parent / "assets"
FULL_SIZE = 32


@register("data", "emoji")
@dataclass(frozen=True)
class Emoji(Data):
    """1,911 colour emoji without skin tones on white, 32x32 pixels; their ten categories are the classes (Noto).

    The caption of each is its short name with the words of Unicode's name, such as "red circle large". A smaller
    ``size`` is made by averaging areas. Every fifth emoji in the order of the categories is held out: 1,529
    for training, 382 for testing. Noto has 1,897 drawings for 1,911 emoji, so six test images (flags, families) also
    occur in training.
    """

    size: Annotated[int, Range(1, FULL_SIZE)] = FULL_SIZE

    default_features: ClassVar[str] = "pixels"

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size)

    @functools.cached_property
    def index(self) -> dict[str, Any]:
        """The names of the categories ("classes"), and the category ("labels") and caption of each emoji."""
        content: dict[str, Any] = json.loads((ASSETS / "emoji.json").read_text(encoding="utf-8"))
        return content

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.index["classes"])

    def captions(self, split: str) -> list[str]:
        chosen = held_out(torch.tensor(self.index["labels"])) == (split == "test")
        return [text for text, belongs in zip(self.index["captions"], chosen.tolist(), strict=True) if belongs]

    def load(self, split: str) -> InMemory:
        labels = torch.tensor(self.index["labels"])
        chosen = held_out(labels) == (split == "test")
        with Image.open(ASSETS / "emoji.png") as sheet:
            pixels = torch.from_numpy(np.array(sheet))
        rows, columns = pixels.shape[0] // FULL_SIZE, pixels.shape[1] // FULL_SIZE
        cells = pixels.view(rows, FULL_SIZE, columns, FULL_SIZE, 3).permute(0, 2, 4, 1, 3).flatten(0, 1)
        return InMemory(average_areas(cells[: len(labels)][chosen], self.size), labels[chosen])


def average_areas(images: Tensor, size: int) -> Tensor:
    """(N, C, S, S) uint8 images at a smaller size: each new pixel is the rounded mean of the area that it covers.

    The borders of new pixels may cut old ones: y = A x A^T with
    A_ij = (size / S) |[i S / size, (i + 1) S / size] cap [j, j + 1]|.
    """
    full = images.shape[-1]
    edges = torch.arange(size + 1, dtype=torch.float64).unsqueeze(1) * full / size
    covered = (edges - torch.arange(full)).clamp(0, 1)
    weights = covered.diff(dim=0) * size / full
    return (weights @ images.double() @ weights.T).round().to(torch.uint8)
