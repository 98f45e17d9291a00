"""How data sets without a published split are divided into training and held-out examples."""

from __future__ import annotations

import hashlib
import math
import os
import re
from pathlib import PurePosixPath

import torch
from torch import Tensor

KINDS = {
    "train": "train(ing)?|trn",
    "val": "val(id(ation)?)?|dev",
    "test": "test(ing)?|tst|eval(uation)?|held[-_ ]?out|hold[-_ ]?out",
}
ENDING = r"([-_ ]?(set|split|data|images?))?[-_ ]?\d*"


def split_of(folder: str) -> str | None:
    """The split that a folder's name states, "train", "val" or "test": Training, valid, test_set, train2017, ..."""
    found = (kind for kind, names in KINDS.items() if re.fullmatch(f"({names}){ENDING}", folder, re.IGNORECASE))
    return next(found, None)


def held_out(labels: Tensor) -> Tensor:
    """(N,) bool: every fifth example in the order of the classes, so that both splits have the same class balance."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[labels.argsort(stable=True)[4::5]] = True
    return chosen


def uniform_hash(path: PurePosixPath) -> float:
    """A number in [0, 1) that depends on the path alone, so that adding one example moves no other."""
    digest = hashlib.sha256(os.fsencode(path.as_posix())).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def held_out_by_hash(hashes: Tensor, classes: Tensor, fraction: float) -> Tensor:
    """(N,) bool: the examples with hashes (N,) below ``fraction``, but no whole class (N,), and at least one.

    None where each class has a single example.
    """
    low, high = float(hashes.min()), float(hashes.max())
    chosen = hashes < min(max(fraction, math.nextafter(low, math.inf)), high)
    # A class of which all examples are held out could not be learned.
    chosen &= torch.isin(classes, classes[~chosen])
    if not chosen.any():
        _, inverse, counts = classes.unique(return_inverse=True, return_counts=True)
        several = counts[inverse] > 1
        chosen[hashes.where(several, math.inf).argmin()] = several.any()
    return chosen
