"""The results of an evaluation, as its loggers get them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_fw.training.loggers.fan_out import print_places, tell

SHOWN = ("metric", "value", "better", "floor", "low", "high", "num_samples", "sampler", "steps", "guidance", "weights")
COLUMNS = (*SHOWN, "seed", "checkpoint")
"""Of the table of results."""


def log_results(
    loggers: Sequence[Any],
    config: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
    pictures: Iterable[Path] = (),
    files: Sequence[Path] = (),
) -> None:
    """Send an evaluation's config, its result lines and its pictures to every logger, and close them.

    A line is an object of ``results`` in evaluation.json. ``files`` go to loggers that are to upload results.
    """
    tell(loggers, "log_hyperparams", config)
    tell(loggers, "log_metrics", {line["metric"]: line["value"] for line in lines}, 0)
    floors = {f"{line['metric']}, floor": line["floor"] for line in lines if line.get("floor") is not None}
    tell(loggers, "log_summary", floors)
    tell(loggers, "log_rows", "results", COLUMNS, [list(_row(line).values()) for line in lines], 0)
    for picture in pictures:
        tell(loggers, "log_picture", picture.stem, picture, 0)
    tell(loggers, "log_results", files)
    print_places(loggers)
    tell(loggers, "finalize", "success")


def _row(line: Mapping[str, Any]) -> dict[str, Any]:
    sampler, checkpoint = line.get("sampler") or {}, line.get("checkpoint")
    low, high = line.get("interval") or (None, None)
    told = {
        **{key: line.get(key) for key in COLUMNS},
        **{"low": low, "high": high},
        **{"sampler": sampler.get("name"), "steps": sampler.get("steps")},
        "guidance": ", ".join(line.get("guidance") or ()) or None,
        "checkpoint": checkpoint.get("path") if isinstance(checkpoint, Mapping) else checkpoint,
    }
    return {key: told[key] for key in COLUMNS}
