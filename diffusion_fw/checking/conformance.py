"""The laws of every group, and the functions that check a component by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusion_fw import registry
from diffusion_fw.checking import (
    condition_laws,
    grid_laws,
    guidance_laws,
    metric_laws,
    network_laws,
    parameterization_laws,
    sampler_laws,
    schedule_laws,
    time_sampler_laws,
    variance_laws,
    weighting_laws,
)
from diffusion_fw.checking.findings import CheckFailed, Report, Row
from diffusion_fw.checking.subject import Check, Subject
from diffusion_fw.registry import ConfigError

CHECKS: dict[str, tuple[Check, ...]] = {
    "schedule": schedule_laws.CHECKS,
    "parameterization": parameterization_laws.CHECKS,
    "variance": variance_laws.CHECKS,
    "weighting": weighting_laws.CHECKS,
    "time_sampler": time_sampler_laws.CHECKS,
    "network": network_laws.CHECKS,
    "grid": grid_laws.CHECKS,
    "sampler": sampler_laws.CHECKS,
    "guidance": guidance_laws.CHECKS,
    "condition": condition_laws.CHECKS,
    "metric": metric_laws.CHECKS,
}


def examine(group: str, name: str, **kwargs: Any) -> Report:
    """All findings about a component, failures included.

    Raises ConfigError for a group without checks, and for an unknown name or parameter.
    """
    registry.entry(group, name)
    if group not in CHECKS:
        raise ConfigError(f"there are no checks for {group}; there are for: {', '.join(CHECKS)}")
    registry.validate(group, name, kwargs)
    subject = Subject(group, name, kwargs)
    rows = tuple(row for item in CHECKS[group] for row in _rows(item, subject))
    return Report(group, name, kwargs, rows)


def _rows(item: Check, subject: Subject) -> list[Row]:
    """The rows of one check; an exception becomes its last row."""
    rows = []
    try:
        for row in item(subject):
            rows.append(row)
    except Exception as error:
        rows.append(Row(item.__name__.replace("_", " "), "", f"{type(error).__name__}: {error}", "no error", False))
    return rows


def check(group: str, name: str, **kwargs: Any) -> Report:
    """Check a component, built in or plugin, by the laws of its group: ``check("sampler", "ddim", eta=0.5)``.

    kwargs are its parameters, Runtime ones included. Returns the report, which prints as a table. Raises CheckFailed
    with the reasons if a check fails, and ConfigError for a group without checks, an unknown name or parameter.
    """
    report = examine(group, name, **kwargs)
    if report.failures:
        raise CheckFailed(report)
    return report


def test(group: str, name: str, **kwargs: Any) -> Callable[[], None]:
    """A test for pytest in one line: ``test_mine = dfw.checking.test("sampler", "mine")``."""

    def conforms() -> None:
        check(group, name, **kwargs)

    return conforms


# pytest would collect it as a test where it is imported by name.
test.__test__ = False  # type: ignore[attr-defined]
