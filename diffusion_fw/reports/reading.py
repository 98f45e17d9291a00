"""Reading the folders of runs, whatever they hold: what cannot be read is a note of the run, never an error.

A folder may be a stranger's. Links are not followed, and no file is read further than a limit, so that no other file of
this machine gets into the page.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from diffusion_fw.files import open_regular
from diffusion_fw.registry import ConfigError
from diffusion_fw.runs.record import NAME, RUNNING, read_record

T = TypeVar("T")

EVALUATION, METRICS = "evaluation.json", "metrics.csv"
MARKS = (NAME, EVALUATION, METRICS)
"""A folder with one of these files is a run's."""
NO_RUNS = ("checkpoints", "samples", "snapshots", "images", "wandb", "tensorboard")
"""Folders in which no run is looked for; hidden ones aren't, either."""

LARGEST_TABLE, LARGEST_TEXT, LARGEST_DIFF = 64 << 20, 1 << 20, 256 << 10
"""Bytes that are read of metrics.csv, of a config or evaluation.json, and of a diff."""
MOST_KEYS, DEEPEST = 2000, 12
MOST_ITEMS, DEEPEST_LIST = 20, 3
"""Values and levels of a config and of a list in it: aliases of YAML can stand for any number of values."""
MOST_RUNS = 2000

AT_LOG_SNR = re.compile(r"(.+) at log-SNR ([+-]?\d+(?:\.\d+)?)")
DIFF = re.compile(r"git-[0-9a-f]{6,64}\.diff")
KILLED = "running or killed"
NO_RECORD = "no record"


@dataclass(frozen=True)
class Measured:
    """One number that evaluate.py measured, and how: a line of the results."""

    metric: str
    value: float
    line: Mapping[str, Any]

    @property
    def higher_is_better(self) -> bool:
        return self.line.get("better") == "higher"

    @property
    def floor(self) -> float | None:
        return number(self.line.get("floor"))

    @property
    def interval(self) -> tuple[float, float] | None:
        match self.line.get("interval"):
            case [low, high] if number(low) is not None and number(high) is not None:
                return float(low), float(high)
        return None

    @property
    def summary(self) -> str:
        """The value with its interval and its floor."""
        said = significant(self.value)
        if self.interval:
            said += f", interval {significant(self.interval[0])} to {significant(self.interval[1])}"
        return said if self.floor is None else f"{said}, floor {significant(self.floor)}"

    @property
    def text(self) -> str:
        """The line as it stands in the results."""
        return json.dumps(self.line)

    @property
    def costs(self) -> dict[str, float]:
        """What one number cost; evaluations are those of the network for one sample."""
        cost = self.line.get("cost")
        cost = cost if isinstance(cost, Mapping) else {}
        found = {
            "evaluations": number(self.line.get("evaluations", cost.get("evaluations"))),
            "seconds per sample": number(cost.get("seconds_per_sample")),
            "seconds of evaluation": number(cost.get("seconds")),
            "FLOPs per sample": number(self.line.get("flops_per_sample", cost.get("flops_per_sample"))),
        }
        return {name: value for name, value in found.items() if value is not None}

    @property
    def sampler_steps(self) -> dict[str, float]:
        """The steps of the sampler, each of which may take several evaluations."""
        sampler = self.line.get("sampler")
        steps = number(sampler.get("steps")) if isinstance(sampler, Mapping) else None
        return {} if steps is None else {"steps of the sampler": steps}


@dataclass
class Run:
    """What the folder of a run holds."""

    folder: Path
    name: str
    record: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    """The text of every value, by its dotted key."""
    measured: Sequence[Measured] = ()
    curves: Mapping[str, list[tuple[float, float]]] = field(default_factory=dict)
    """(step, value) by the name of the value."""
    by_log_snr: Mapping[int, list[tuple[float, float]]] = field(default_factory=dict)
    """(log-SNR, held-out loss) by step."""
    diffs: Mapping[str, str] = field(default_factory=dict)
    """The uncommitted changes by the name of their file."""
    notes: list[str] = field(default_factory=list)

    @property
    def program(self) -> str:
        return str(self.record.get("program") or ("evaluate" if self.measured else "train"))

    @property
    def status(self) -> str:
        status = str(self.record.get("status") or NO_RECORD)
        return KILLED if status == RUNNING else status

    @property
    def error(self) -> str:
        return str(self.record.get("error") or "")

    @property
    def overrides(self) -> list[str]:
        return list(self.record.get("overrides", []))

    @property
    def command(self) -> str:
        stated = next((str(item.line["command"]) for item in self.measured if item.line.get("command")), "")
        return stated or (shlex.join(["python", f"{self.program}.py", *self.overrides]) if self.record else "")

    @property
    def attempts(self) -> list[Mapping[str, Any]]:
        return list(self.record.get("attempts", []))

    @property
    def seconds(self) -> float | None:
        return sum(attempt.get("seconds", 0.0) for attempt in self.attempts) if self.attempts else None

    @property
    def seed(self) -> str:
        return self.config.get("seed") or text_of(self.record.get("seed", ""))

    @property
    def best(self) -> Measured | None:
        """The best distance of a training run."""
        name, value = self.record.get("metric"), number(self.record.get("result"))
        return (
            None
            if not name or value is None or self.measured
            else Measured(str(name), value, {"floor": self.record.get("floor")})
        )

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Labelled facts about the run: its folder, command, error, best value, attempts, code and plugins."""
        found = [("Folder", os.fspath(self.folder)), ("Command", self.command), ("Error", self.error)]
        found += [("Not read", note) for note in self.notes]
        if self.best:
            found.append(("Best", f"{self.best.metric} = {self.best.summary}"))
        for attempt in self.attempts:
            seconds = attempt.get("seconds")
            parts = [attempt.get("began"), None if seconds is None else f"{significant(seconds)} s"]
            parts += [attempt.get("host"), attempt.get("platform")]
            parts += [f"Python {attempt['python']}" if attempt.get("python") else None, attempt.get("status")]
            found.append(("Ran", ", ".join(str(part) for part in parts if part)))
        for repository in self.attempts[-1].get("repositories", []) if self.attempts else ():
            said = f"{repository.get('folder')} at commit {repository.get('commit')}"
            said += f", with {repository['diff']}" if repository.get("diff") else ""
            said += f", untracked: {text_of(repository['untracked'])}" if repository.get("untracked") else ""
            found.append(("Code", said))
        plugins = self.attempts[-1].get("plugins", {}) if self.attempts else {}
        found.append(("Plugins", ", ".join(f"{name} {content[:12]}" for name, content in plugins.items())))
        return [(term, text) for term, text in found if text]


def significant(value: float) -> str:
    """A number with four significant digits."""
    return f"{value:,.0f}" if 10_000 <= abs(value) < 10_000_000 else f"{value:.4g}"


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def text_of(value: Any, depth: int = 0) -> str:
    """A value of a config as the command line writes it, of lists the beginning."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.6g}"
        case list():
            shown = [text_of(item, depth + 1) for item in value[:MOST_ITEMS]] if depth < DEEPEST_LIST else []
            return f"[{','.join(shown)}{',...' if len(value) > len(shown) else ''}]"
    return f"{value!s:.500}"


def flattened(config: Any) -> dict[str, str]:
    """The text of every value by its dotted key.

    A component's own key is that of its group: `schedule` for `schedule.name`. The key of a group of several components
    lists their names.
    """
    found: dict[str, str] = {}

    def visit(value: Any, key: str, depth: int) -> None:
        if len(found) >= MOST_KEYS or depth > DEEPEST:
            return
        if not isinstance(value, Mapping):
            found[key.removesuffix(".name")] = text_of(value)
            return
        if key and "name" not in value and all(isinstance(item, Mapping) for item in value.values()):
            found[key] = ",".join(map(str, value)) or "none"
        for name, item in value.items():
            visit(item, f"{key}.{name}" if key else str(name), depth + 1)

    if isinstance(config, Mapping):
        visit(config, "", 0)
    return found


# --------------------------------------------------------------------------------------------------------------------
# Folders
# --------------------------------------------------------------------------------------------------------------------


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in these folders and in the folders below them, each once.

    Raises ConfigError for a folder that does not exist or holds no run.
    """
    runs: dict[Path, Run] = {}
    names = [folder.absolute().name for folder in folders]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; give the folder of a run or of a sweep")
        places = sorted(_places(folder), key=lambda place: _by_number(place.relative_to(folder)))
        if not places:
            raise ConfigError(
                f"{folder} holds no run: neither it nor a folder in it has a {', '.join(MARKS[:-1])} or {MARKS[-1]}; "
                "give the folder of a run or of a sweep"
            )
        above = folder.absolute().name
        above = above if names.count(above) == 1 else folder.as_posix()
        for place in places:
            own = place.relative_to(folder).as_posix()
            name = above if own == "." else f"{above}/{own}" if len(folders) > 1 else own
            runs.setdefault(place.resolve(), Run(place, name))
    if len(runs) > MOST_RUNS:
        raise ConfigError(f"{len(runs):,} runs are more than one page shows, {MOST_RUNS:,}; give fewer folders")
    for run in runs.values():
        read_run(run)
    return list(runs.values())


def _places(folder: Path) -> Iterator[Path]:
    for place, below, files in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".") and name not in NO_RUNS]
        if any(mark in files for mark in MARKS):
            yield Path(place)


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Jobs are sorted by their numbers: 2 comes before 10."""
    return [(int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in path.parts]


def read_run(run: Run) -> None:
    """Read what the folder of a run holds into ``run``."""
    if (run.folder / NAME).is_symlink() or (record := read_record(run.folder)) is None:
        if (run.folder / NAME).exists():
            run.notes.append(f"{NAME} is damaged, so that the command and the provenance are not known")
    else:
        run.record = record
    run.measured = _read(run, EVALUATION, LARGEST_TEXT, lambda content: _lines(json.loads(content))) or ()
    config: Any = None
    for name in ("config.yaml", ".hydra/config.yaml"):
        config = config or _read(run, name, LARGEST_TEXT, lambda content: yaml.load(content, Loader=_Loader))
    stated = (override.lstrip("+~").partition("=") for override in run.overrides)
    run.config = (flattened(config) or {key: value for key, _, value in stated}) | _settings(run.measured)
    rows = _read(run, METRICS, LARGEST_TABLE, _rows) or []
    run.curves, run.by_log_snr = _curves(rows)
    run.diffs = _diffs(run)


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _read(run: Run, name: str, limit: int, parse: Callable[[str], T]) -> T | None:
    """What ``parse`` makes of a file; None without the file, and with a note if it cannot be read."""
    path = run.folder / name
    try:
        if path.is_symlink():
            raise OSError("it is a link")
        with open_regular(path) as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise ValueError(f"it is larger than {limit >> 10:,} KiB")
        return parse(content.decode(errors="replace").replace("\0", "\ufffd"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, csv.Error, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        run.notes.append(f"{name} cannot be read: {said:.300}")
        return None


def _lines(content: Any) -> list[Measured]:
    """The result lines of an evaluation; of version 0.1.0 the record itself is the one line."""
    if not isinstance(content, Mapping):
        raise ValueError("it is no JSON object")
    lines = content.get("results")
    lines = [line for line in lines if isinstance(line, Mapping)] if isinstance(lines, list) else [content]
    found = []
    for line in lines:
        name = line.get("metric")
        name = name if isinstance(name, str) else ""
        value = number(line.get("value", line.get(name, line.get("distance"))))
        if name and value is not None:
            found.append(Measured(name, value, line))
    return found


def _settings(measured: Sequence[Measured]) -> dict[str, str]:
    """What an evaluation was made with, where its config says `own`."""
    keys = ("sampler", "grid", "guidance", "variance", "weights", "seed", "checkpoint")
    found: dict[str, str] = {}
    for item in measured[:1]:
        for key in keys:
            value = item.line.get(key)
            if key == "checkpoint" and isinstance(value, Mapping):
                value = value.get("path")
            if value is not None:
                found |= flattened({key: value})
    return found


def _rows(content: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content, newline="")))


def _curves(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, list[tuple[float, float]]], dict[int, list[tuple[float, float]]]]:
    curves: dict[str, list[tuple[float, float]]] = {}
    by_log_snr: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        step = _parsed(row.get("step"))
        if step is None:
            continue
        for name, text in row.items():
            value = None if name in (None, "step") else _parsed(text)
            if value is None:
                continue
            if at := AT_LOG_SNR.fullmatch(name):
                by_log_snr.setdefault(int(step), []).append((float(at[2]), value))
            else:
                curves.setdefault(name, []).append((step, value))
    # After a resumption, a step may be there twice; the later row counts.
    steps = {name: sorted(dict(points).items()) for name, points in sorted(curves.items())}
    return steps, {step: sorted(dict(points).items()) for step, points in sorted(by_log_snr.items())}


def _parsed(text: Any) -> float | None:
    try:
        return number(float(text)) if isinstance(text, str) and text else None
    except ValueError:
        return None


def _diffs(run: Run) -> dict[str, str]:
    """The diffs that the record names."""
    named = {
        str(repository.get("diff"))
        for attempt in run.attempts
        for repository in attempt.get("repositories", [])
        if repository.get("diff")
    }
    found = {name: _read(run, name, LARGEST_DIFF, str) for name in sorted(named) if DIFF.fullmatch(name)}
    return {name: text for name, text in found.items() if text is not None}
