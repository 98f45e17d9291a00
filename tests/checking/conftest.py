from __future__ import annotations

import pytest

from diffusion_fw import registry


@pytest.fixture
def registered(monkeypatch):
    """Registers a component for the length of one test, so that no other test finds it."""
    registry.entries("sampler")

    def add(group, component, name="broken"):
        known = registry.entries(group)
        monkeypatch.setitem(registry.components._entries, group, dict(known))
        registry.register(group, name)(component)
        return name

    return add
