"""Horizontal flips, as examples of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from diffusion_fw.data.source import Batch, Examples


@dataclass(frozen=True)
class WithFlips:
    """Images followed by their mirror images: index i >= n is image i - n flipped.

    So each epoch shows both, and no coin is tossed: the same indices give the same examples.
    """

    examples: Examples

    def __len__(self) -> int:
        return 2 * len(self.examples)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.as_tensor(indices)
        count = len(self.examples)
        values, labels = self.examples.__getitems__((index % count).tolist())
        flipped = (index >= count).view(-1, 1, 1, 1)
        return torch.where(flipped, values.flip(-1), values), labels

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.examples.fingerprint()} with flips".encode()).hexdigest()[:16]
