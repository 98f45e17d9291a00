"""Fixed splits of data that comes in one piece."""

from __future__ import annotations

import torch
from torch import Tensor


def held_out_of_each_class(labels: Tensor, every: int = 5) -> Tensor:
    """(N,) bool: every fifth example of each class, in the order given, so that both splits have the same balance."""
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        held_out[(labels == label).nonzero().squeeze(1)[every - 1 :: every]] = True
    return held_out
