"""The component that is checked, and how each check builds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusion_fw import registry
from diffusion_fw.checking.findings import Row
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError


@dataclass(frozen=True)
class Subject:
    """A registered name of a group with some of its parameters."""

    group: str
    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def build(self, **overrides: Any) -> Any:
        """The component with some of its parameters changed."""
        return registry.build(self.group, self.name, **{**self.parameters, **overrides})

    def assemble(self, **facts: Any) -> Any:
        """The component with those facts that its signature has as Runtime parameters and that are not given yet."""
        signature = registry.entry(self.group, self.name).parameters
        wanted = {
            key: value
            for key, value in facts.items()
            if key not in self.parameters and key in signature and registry.is_runtime(signature[key].annotation)
        }
        return self.build(**wanted)


Check = Callable[[Subject], Iterator[Row]]
"""One law: yields its findings about the component."""


def schedules() -> dict[str, Schedule]:
    """Every registered schedule without required parameters, and a table that ends in pure noise."""
    found = {}
    for name in registry.names("schedule"):
        try:
            found[name] = registry.build("schedule", name)
        except ConfigError:
            continue
    found["linear, zero_terminal_snr"] = registry.build("schedule", "linear", zero_terminal_snr=True)
    return found
