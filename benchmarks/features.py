"""Features a second for the Fréchet distance, against torchmetrics' own update with the same extractor."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torchmetrics.image.fid import FrechetInceptionDistance

import diffusion_fw as dfw
from benchmarks.row import Row
from benchmarks.timing import compared, in_turns
from diffusion_fw.data.dataset import InMemory

BATCH = 256
AIM = 1.3


def measure() -> Iterator[Row]:
    images = torch.randint(256, (BATCH, 1, 8, 8), dtype=torch.uint8)
    examples = InMemory(images)
    for name in ("digits", "pixels"):
        features = dfw.build("features", name, shape=(1, 8, 8))
        ours = dfw.build("metric", "fid", features=features, train=examples, test=examples, num_samples=BATCH)
        other = FrechetInceptionDistance(feature=features)
        updates = [functools.partial(ours.update, images), functools.partial(other.update, images, real=False)]
        pairs = [(first, second) for first, second in in_turns(updates, repeats=10)]
        yield compared(f"{name} features of {BATCH} images of 1x8x8", "torchmetrics' update", pairs, 1 / AIM)
