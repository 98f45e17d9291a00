"""One measurement, beside what it is compared with."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """``ours`` and ``other`` in ``unit``; ``ratio`` is ours / other, which is to lie between two bounds.

    ``low`` and ``high`` are the smallest and the largest ratio of the rounds, if there were several.
    """

    name: str
    against: str
    ours: float
    other: float
    ratio: float
    at_most: float
    at_least: float = 0.0
    unit: str = "s"
    low: float | None = None
    high: float | None = None

    @property
    def kept(self) -> bool:
        return self.at_least <= self.ratio <= self.at_most


@dataclass(frozen=True)
class Missing:
    """A comparison that was left out because a package is not installed."""

    name: str
    against: str


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
