"""A registry to change in a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from diffusion_fw import registry


@contextlib.contextmanager
def copied_registry() -> Iterator[dict[str, dict[str, Any]]]:
    """The registry, by group and name; changes to it are undone at the end of the block."""
    # Built-ins register themselves when their module is imported, which happens once.
    entries = {group: registry.entries(group) for group in registry.GROUPS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry.components, "_entries", entries)
        yield entries
