"""The options of every stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Options:
    toy: bool
    """Sizes that a CPU does in seconds."""
    data: Path | None
    """A folder with mnist/ in it."""
    work: Path
    """A folder for the runs, thrown away afterwards."""
    shared: Path
    """A folder for what one stage makes and another takes."""

    @property
    def trainer(self) -> str:
        return "trainer=gpu" if torch.cuda.is_available() else "trainer=cpu"


TINY = (
    "network.channels=4",
    "network.channel_mult=[1]",
    "sampler.steps=2",
    "metric.num_samples=8",
    "batch_size=8",
)
"""A run of a network of some hundred weights."""
