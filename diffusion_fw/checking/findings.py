"""What a check found: rows of a table, and the error that names those that failed."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

MARKS = {True: "[green]ok[/]", False: "[bold red]FAILED[/]", None: ""}


@dataclass(frozen=True)
class Row:
    """One finding about a property at a place, such as a schedule; ``passed`` is None for what is not judged.

    ``found`` and ``wanted`` are for the reader. A finding that is a number has it as ``value`` too, in ``unit``, with
    the ``bound`` that judges it, and the ``steps`` that a sampler took for it.
    """

    what: str
    where: str
    found: str
    wanted: str = ""
    passed: bool | None = None
    value: float | None = None
    bound: float | None = None
    unit: str = ""
    steps: int | None = None

    @property
    def place(self) -> str:
        """Where it was found, and after how many steps."""
        return ", ".join(filter(None, [self.where, "" if self.steps is None else f"{self.steps} steps"]))

    def __str__(self) -> str:
        place = f", {self.place}" if self.place else ""
        return f"{self.what}{place}: found {self.found}, wanted {self.wanted}"


def verdict(what: str, where: str, wrong: str | None, wanted: str) -> Row:
    """A row that fails with what is wrong, if anything."""
    return Row(what, where, wrong or "as wanted", wanted, wrong is None)


def reported(
    what: str, where: str, value: float, unit: str = "", *, digits: str = ".0e", steps: int | None = None
) -> Row:
    """A number that is not judged; ``digits`` is its format."""
    found = f"{value:{digits}} {unit}".rstrip()
    return Row(what, where, found, value=value, unit=unit, steps=steps)


def at_most(
    what: str,
    where: str,
    value: float,
    bound: float,
    unit: str = "",
    *,
    digits: str = ".0e",
    steps: int | None = None,
) -> Row:
    """A number, such as an error, that must not be above a bound; NaN fails."""
    found, wanted = f"{value:{digits}} {unit}".rstrip(), f"at most {bound:g} {unit}".rstrip()
    return Row(what, where, found, wanted, value <= bound, value, bound, unit, steps)


def at_least(what: str, where: str, value: float, bound: float) -> Row:
    """A number, such as a count, that must not be below a bound."""
    return Row(what, where, f"{value:g}", f"at least {bound:g}", value >= bound, value, bound)


@dataclass(frozen=True)
class Report:
    """All findings about one component; prints as a table."""

    group: str
    name: str
    parameters: dict[str, object] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()

    @property
    def title(self) -> str:
        """The component as it is written on a command line."""
        parameters = (f"{self.group}.{key}={value}" for key, value in self.parameters.items())
        return " ".join([f"{self.group}={self.name}", *parameters])

    @property
    def failures(self) -> list[Row]:
        return [row for row in self.rows if row.passed is False]

    def row(self, what: str, where: str = "") -> Row | None:
        """The finding about a property at a place, if there is one."""
        return next((row for row in self.rows if row.what == what and row.where == where), None)

    def __rich__(self) -> Table:
        table = Table("property", "where", "found", "wanted", "", title=self.title, title_justify="left")
        for row in self.rows:
            table.add_row(row.what, row.place, row.found, row.wanted, MARKS[row.passed])
        return table

    def __str__(self) -> str:
        console = Console(width=140)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


class CheckFailed(AssertionError):  # noqa: N818 - a public name
    """A component failed its checks; the message lists the failures, ``report`` holds all findings."""

    def __init__(self, report: Report) -> None:
        self.report = report
        lines = [f"  {row}" for row in report.failures]
        super().__init__("\n".join([f"{report.title} fails its checks:", *lines]))
