"""What a run tells its loggers. A logger is told what it has a method for; docs/logging.md lists the methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_fw.training.os_errors import log_os_errors


@dataclass(frozen=True)
class Curve:
    """A curve over log-SNR at one step: in bins whose edges are the same for every run, and as numbers by name.

    A logger with a method ``log_curve`` draws it. The others get the numbers, which are of this run's own bins.
    """

    name: str
    log_snr: Sequence[float]
    values: Sequence[float]
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Labels:
    """What a logger may call a run: the program, and the sweep and the experiment that it belongs to."""

    program: str = "train"
    sweep: str | None = None
    experiment: str | None = None

    @staticmethod
    def sweep_in(folder: str) -> str:
        """What the sweep in a folder is called: the last two parts of the folder's name."""
        return "/".join(Path(folder).parts[-2:])


def lasting(logger: Any) -> Any:
    """The logger, with a ``log_metrics`` that outlasts an OSError: callbacks of Lightning call it themselves."""
    write = logger.log_metrics

    def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
        with outlasted(logger):
            write(metrics, step)

    logger.log_metrics = log_metrics
    return logger


def outlasted(logger: Any) -> AbstractContextManager[None]:
    """Carry on after an OSError of the logger in the block, which is logged once."""
    return log_os_errors(f"logging into {logger.save_dir}", "training continues, and the next values are logged")


def tell(loggers: Iterable[Any], what: str, *values: Any) -> None:
    """Call the method ``what`` of every logger that has one. An OSError is logged once, and the run goes on."""
    for logger in loggers:
        if method := getattr(logger, what, None):
            with outlasted(logger):
                method(*values)


def log_numbers(loggers: Iterable[Any], numbers: Mapping[str, float], step: int, curve: Curve | None = None) -> None:
    """Send the numbers and the curve of a step to every logger."""
    for logger in loggers:
        draws = curve is not None and hasattr(logger, "log_curve")
        further = {} if curve is None or draws else curve.numbers
        tell([logger], "log_metrics", {**numbers, **further}, step)
        if draws:
            tell([logger], "log_curve", curve, step)


def print_places(loggers: Iterable[Any]) -> None:
    """Say where the loggers that have a place outside of the run's folder show the run."""
    for logger in loggers:
        if place := getattr(logger, "where", None):
            print(place)
