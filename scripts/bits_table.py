"""Print the bits per dimension of several runs as a table: python scripts/bits_table.py TITLE=FOLDER ...

It reads every evaluation.json below each folder (written by `python evaluate.py -m metric=nll ...`) and prints, in
Markdown, the mean and the standard deviation over the runs for each variance and number of steps.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Print the table."""
    found: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for argument in arguments:
        title, _, folder = argument.rpartition("=")
        for path in sorted(Path(folder).rglob("evaluation.json")):
            result = json.loads(path.read_text())
            if "bits_per_dim" in result:
                found[title, result["variance"]["name"]][result["steps"]].append(result["bits_per_dim"])
    steps = sorted({count for row in found.values() for count in row})
    print("| trained with | variance | " + " | ".join(f"{count} steps" for count in steps) + " |")
    print("| --- | --- | " + " | ".join("---" for _ in steps) + " |")
    for (title, variance), row in sorted(found.items()):
        print(f"| {title} | `{variance}` | " + " | ".join(_cell(row[count]) for count in steps) + " |")


def _cell(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else ""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main(sys.argv[1:])
