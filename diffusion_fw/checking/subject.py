"""The component under test, and how each check asks for it anew."""

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
    """A name of a group with knobs; what only a caller can pass comes from the check, if the signature asks for it."""

    group: str
    name: str
    knobs: Mapping[str, Any] = field(default_factory=dict)

    def build(self, **overrides: Any) -> Any:
        """The component with some of its knobs changed."""
        return registry.build(self.group, self.name, **{**self.knobs, **overrides})

    def assemble(self, **facts: Any) -> Any:
        """The component with those of the facts that its signature asks for and its knobs don't give."""
        arguments = registry.entry(self.group, self.name).arguments
        wanted = {
            key: value
            for key, value in facts.items()
            if key not in self.knobs and key in arguments and registry.is_runtime(arguments[key].annotation)
        }
        return self.build(**wanted)


Check = Callable[[Subject], Iterator[Row]]
"""One property: yields what it finds about the component."""


def schedules() -> dict[str, Schedule]:
    """Every registered schedule that needs no knobs, and a table and a path without signal at t = 1."""
    found = {}
    for name in registry.names("schedule"):
        try:
            found[name] = registry.build("schedule", name)
        except ConfigError:
            continue
    found["linear, zero_terminal_snr"] = registry.build("schedule", "linear", zero_terminal_snr=True)
    return found


def verdict(what: str, where: str, wrong: str | None, wanted: str) -> Row:
    """A row that fails with what is wrong, if anything."""
    return Row(what, where, wrong or "as wanted", wanted, wrong is None)
