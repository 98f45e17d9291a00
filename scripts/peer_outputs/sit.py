"""willisma/SiT; needs timm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scripts.peer_outputs import dit


def records() -> Iterator[dict[str, Any]]:
    """SiT's label is its time, 0 for noise and 1 for data."""
    from models import SiT  # type: ignore[import-not-found]

    yield from dit.of(SiT, [0.0, 0.25, 0.9])
