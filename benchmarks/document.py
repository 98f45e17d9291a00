"""The section of docs/performance.md that holds the results on a CPU."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from benchmarks.row import Missing, Row

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cpu"
PAGE = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "images"
BEGIN, END = "<!-- Begin of the results of `python -m benchmarks`. -->", "<!-- End of these results. -->"

TITLES = {
    "sampling_step": "A sampling step",
    "training_step": "A training step of a small MLP",
    "health_watch": "The health callback",
    "unet_step": "A training step of a U-Net",
    "features": "Features for the Fréchet distance",
    "startup": "Starting",
    "growth": "Growth of the time",
    "evaluations": "Evaluations of the network",
    "peak_memory": "Stated and measured memory",
}
PICTURES = {
    "growth": ("cpu_growth.png", "time against steps, batch, pixels and channels, with the fitted exponents"),
    "evaluations": ("cpu_evaluations.png", "Fréchet distance against evaluations of the network"),
}


def line(row: Row | Missing) -> str:
    """A row as text for the terminal."""
    if isinstance(row, Missing):
        return f"  {row.name}: not compared with {row.against}, which is not installed"
    kept = "" if row.kept else "  OUT OF BOUNDS"
    return f"  {row.name}, against {row.against}: {row.ratio:.2f} ({bounds(row.at_least, row.at_most)}){kept}"


def bounds(low: float, high: float) -> str:
    if not low:
        return f"at most {high:.3g}" if math.isfinite(high) else "no bound"
    return f"at least {low:.3g}" if not math.isfinite(high) else f"{low:.3g} to {high:.3g}"


def amount(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.3g} ms"
    if unit == "bytes":
        return f"{value / 2**20:.1f} MiB"
    return f"{value:.3g} {unit}".rstrip()


def section(name: str, content: dict[str, Any]) -> str:
    """The results of one benchmark in Markdown."""
    lines = [f"### {TITLES[name]}", ""]
    lines += ["| what | against | ours | theirs | ratio | its range | aim |", "|---|---|---|---|---|---|---|"]
    for row in content["rows"]:
        aim = bounds(row["at_least"], row["at_most"]) + ("" if row["kept"] else ", missed")
        values = (amount(row[key], row["unit"]) for key in ("ours", "other"))
        spread = "" if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"
        cells = (row["name"], row["against"], *values, f"{row['ratio']:.2f}", spread, aim)
        lines.append(f"| {' | '.join(cells)} |")
    for row in content["missing"]:
        lines.append(f"| {row['name']} | {row['against']}: not installed | | | | | |")
    packages = ", ".join(f"{package} {version}" for package, version in content["packages"].items())
    lines += [
        "",
        f"{content['cpu']}, {content['cores']} cores, {content['threads']} threads, {content['instructions']}",
    ]
    lines[-1] += f"; torch {content['torch']}, {packages}; {content['date']}, commit {content['commit']}."
    if name in PICTURES:
        lines += ["", "![{1}](images/{0})".format(*PICTURES[name])]
    return "\n".join([*lines, ""])


def write() -> None:
    """Write the section again from the files of results."""
    found = {name: RESULTS / f"{name}.json" for name in TITLES if (RESULTS / f"{name}.json").exists()}
    parts = [section(name, json.loads(path.read_text())) for name, path in found.items()]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text("\n".join([f"{before}{BEGIN}", "", *parts, f"{END}{after}"]))
