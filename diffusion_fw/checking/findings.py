"""What a check found: rows of a table, and the error that names those that failed."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

MARKS = {True: "[green]ok[/]", False: "[bold red]FAILED[/]", None: ""}


@dataclass(frozen=True)
class Row:
    """One finding; ``passed`` is None for a number that is shown and not judged."""

    what: str
    where: str
    found: str
    wanted: str = ""
    passed: bool | None = None

    def __str__(self) -> str:
        place = f", {self.where}" if self.where else ""
        return f"{self.what}{place}: found {self.found}, wanted {self.wanted}"


@dataclass(frozen=True)
class Report:
    """All findings about one component; prints as a table."""

    group: str
    name: str
    knobs: dict[str, object] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()

    @property
    def title(self) -> str:
        """The component as it is written on a command line."""
        knobs = (f"{self.group}.{key}={value}" for key, value in self.knobs.items())
        return " ".join([f"{self.group}={self.name}", *knobs])

    @property
    def failures(self) -> list[Row]:
        return [row for row in self.rows if row.passed is False]

    def __rich__(self) -> Table:
        table = Table("property", "where", "found", "wanted", "", title=self.title, title_justify="left")
        for row in self.rows:
            table.add_row(row.what, row.where, row.found, row.wanted, MARKS[row.passed])
        return table

    def __str__(self) -> str:
        console = Console(width=140)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


class CheckFailed(AssertionError):  # noqa: N818 - a public name
    """A component that breaks its word; the message lists where, ``report`` holds everything that was found."""

    def __init__(self, report: Report) -> None:
        self.report = report
        lines = [f"  {row}" for row in report.failures]
        super().__init__("\n".join([f"{report.title} breaks its word:", *lines]))
