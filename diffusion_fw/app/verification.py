"""Whether a result line still holds, by measuring 1% of it again."""

from __future__ import annotations

import copy
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_fw import registry
from diffusion_fw.app.evaluate import build_metrics, collect, measure
from diffusion_fw.app.sample_source import MODEL_KEYS, Source, open_source
from diffusion_fw.config.compose import checked
from diffusion_fw.metrics.collection import Collection
from diffusion_fw.registry import OWN, ConfigError
from diffusion_fw.runs.results import DIGEST, FORMAT, digest

TOLERANCE = 1e-3
"""The relative difference that other hardware, other batches and other versions of a kernel may make."""
SECTION = (dict,)
OPTIONAL = (dict, type(None))
TYPES: dict[str, tuple[type, ...]] = {
    "metric": (str,),
    "value": (int, float, type(None)),
    "component": SECTION,
    "weights": (str,),
    "data": SECTION,
    "num_samples": (int,),
    "seed": (int,),
    **dict.fromkeys(("checkpoint", "samples", "features", "ema", "record"), OPTIONAL),
    "partial": (list, type(None)),
    "protocol": (str, type(None)),
}
"""What a line holds, by the types that JSON has."""


@dataclass(frozen=True)
class Finding:
    """One thing that was compared."""

    what: str
    stated: str
    found: str
    holds: bool


def verify(line: Mapping[str, Any], *, device: str = "auto", batch_size: int = 256) -> list[Finding]:
    """Measure the first 1% of a line's samples again, but at least 16, and compare all that the line states.

    The hash of the line shows whether it was edited. Everything else is made anew from its settings: the checkpoint,
    the data and the features by their hashes, the network evaluations, what guidance changes, the first samples, and
    the metric on the part. A value of which only the line's other numbers speak, such as the distance of all samples,
    is protected by the hash alone. Raises ConfigError for a line that cannot be run, such as of a missing file.
    """
    check_types(line)
    sealed = line.get(DIGEST) == digest(line)
    found = [Finding("the line's own hash", "unchanged", "unchanged" if sealed else "edited", sealed)]
    config = config_of(line, device, batch_size)
    source = open_source(config)
    return [*found, *_inputs(line, source), *_drawing(line, source), *_value(line, source)]


def check_types(line: Mapping[str, Any]) -> None:
    """ConfigError for what evaluate.py cannot have written."""
    missing = [key for key, types in TYPES.items() if key not in line and type(None) not in types]
    wrong = [key for key, types in TYPES.items() if key in line and not isinstance(line[key], types)]
    part = line.get("partial")
    if part is not None and not (
        isinstance(part, list)
        and len(part) == 2
        and isinstance(part[0], int)
        and isinstance(part[1], (int, float, type(None)))
    ):
        wrong.append("partial")
    if not missing and not wrong and line.get("format") == FORMAT:
        return
    said = f"its format is {line.get('format')!r:.20}, not {FORMAT}"
    if missing or wrong:
        said = f"it lacks {', '.join(missing)}" if missing else f"{', '.join(dict.fromkeys(wrong))} are of another type"
    raise ConfigError(f"this is no result line of evaluate.py: {said}")


def own_section(group: str) -> dict[str, Any]:
    """What stands for the model's own in a group."""
    return {OWN: {"name": OWN}} if registry.GROUPS[group].several else {"name": OWN}


def config_of(line: Mapping[str, Any], device: str, batch_size: int) -> dict[str, Any]:
    """The config of evaluate.py that measures the line's part again. Raises ConfigError for one that is none."""
    line = copy.deepcopy(dict(line))
    # A line may be a stranger's: it does not choose where something is written.
    component = {key: value for key, value in line["component"].items() if key != "cache_dir"}
    part = line.get("partial")
    if part is not None:
        factory = registry.entry("metric", str(component.get("name"))).factory
        component |= getattr(factory, "part", lambda count: {"num_samples": count})(int(part[0]))
    files = line["data"].get("name") == "files"
    sections = {
        "data": {"name": OWN} if files else {k: v for k, v in line["data"].items() if k != "fingerprints"},
        "features": {k: v for k, v in (line.get("features") or {"name": OWN}).items() if k != "fingerprint"},
        **{key: line.get(key) or own_section(key) for key in MODEL_KEYS},
    }
    if line.get("guidance") == {}:
        sections["guidance"] = {}
    return checked(
        "evaluate",
        {
            "checkpoint": (line.get("checkpoint") or {}).get("path"),
            "samples": (line.get("samples") or {}).get("path"),
            "reference": line["data"].get("path") if files else None,
            "results": None,
            "seed": line["seed"],
            "batch_size": batch_size,
            "raw_weights": line.get("raw_weights", False),
            "ema": line.get("ema") or {"rate": None, "std": None},
            "device": device,
            "precision": line.get("precision", "32-true"),
            "compile": False,
            "explain": False,
            "protocol": [line["protocol"]] if line.get("protocol") else [],
            "ladder": False,
            "logger": {},
            **sections,
            "metric": {str(component.get("name")): component},
        },
    )


def _inputs(line: Mapping[str, Any], source: Source) -> Iterator[Finding]:
    """Whether the files are those of the line."""
    now = source.identity
    for key, part in (("checkpoint", "sha256"), ("samples", "fingerprint")):
        if key in now:
            yield _equal(key, (line.get(key) or {}).get(part), now[key][part])
    if "classes" in now:
        same = _plain(line.get("classes")) == _plain(now["classes"])
        yield Finding("frequencies of classes", "as stated", "the same" if same else "others", same)
    yield _equal("weights", line["weights"], source.weights)
    stated = line["data"].get("fingerprints") or {}
    for split, now_has in source.data.fingerprints.items():
        yield _equal(f"data, {split}", stated.get(split), now_has)


def _drawing(line: Mapping[str, Any], source: Source) -> Iterator[Finding]:
    """Whether the first samples are made as the line says, and are those of the line; nothing without samples."""
    if not line["num_samples"]:
        return
    now = source.probe()
    for key in ("evaluations", "flops_per_sample"):
        yield _equal(key.replace("_", " "), line.get(key), now[key])
    for key, what in (("guidance_applied", "change by guidance"), ("first_samples", "first samples")):
        stated, found = line.get(key), now[key]
        if stated is not None or found is not None:
            gap = _gap(stated, found)
            yield Finding(what, "as stated", f"{gap:.2g} apart", gap <= TOLERANCE)


def _value(line: Mapping[str, Any], source: Source) -> Iterator[Finding]:
    """Whether the metric of the part is that of the line."""
    (chosen, *_) = every = build_metrics(source)
    collection = collect(source, every)
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(collection, Collection):
            collection.folder = Path(folder)
        measured = [found for _, found in measure(source, every, collection, Path(folder))]
    count = int(line["num_samples"])
    names = {re.sub(r"@\d+", f"@{count}", found.name) if count else found.name: found for found in measured}
    found = names.get(line["metric"])
    if found is None:
        yield Finding("metric", str(line["metric"]), ", ".join(names), False)
        return
    features = getattr(chosen.metric, "measured_on", getattr(chosen.metric, "features", None))
    stated = line.get("features")
    now = None if features is None else features.fingerprint()
    yield _equal("features", None if stated is None else stated.get("fingerprint"), now)
    yield _equal("better", line.get("better"), found.better)
    record = line.get("record")
    known = record.values() if isinstance(record, dict) else []
    yield Finding("value", f"{line['value']}", "as recorded", line["value"] is None or line["value"] in known)
    # A metric without a part is measured as a whole.
    n, value = line.get("partial") or (count, line["value"])
    value = line["value"] if n == count else value
    again = found.partial[1] if found.partial and n != count else found.value
    gap = _gap([value], [again if math.isfinite(again) else None])
    what = f"value of the first {n}" if line.get("partial") else "value, measured again"
    yield Finding(what, f"{value}", f"{again:.6g}", gap <= TOLERANCE)


def _equal(what: str, stated: Any, found: Any) -> Finding:
    # As JSON has it: tuples are lists there.
    same = _plain(stated) == _plain(found)
    return Finding(what, str(stated)[:40], str(found)[:40], same)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _gap(stated: Any, found: Any) -> float:
    """The largest difference of two nested lists of numbers, relative to the largest; infinite for other shapes."""
    first, second = list(_leaves(stated)), list(_leaves(found))
    if len(first) != len(second) or not all(isinstance(value, (int, float)) for value in (*first, *second)):
        return 0.0 if first == second else math.inf
    largest = max((abs(value) for value in (*first, *second)), default=0.0)
    return max((abs(a - b) for a, b in zip(first, second, strict=True)), default=0.0) / max(largest, 1e-12)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
