"""`python -m diffusion_fw.compare RUN RUN ...`: the curves of several runs in one figure.

    python -m diffusion_fw.compare outputs/2026-01-31/12-00-00 outputs/2026-01-31/12-10-00
    python -m diffusion_fw.compare multirun/schedules --out schedules.svg --values fid/digits@500/ema train/loss

Each run is named by the keys in which the runs differ. The figure holds the distance, the held-out loss and the
training's loss, or the values that --values names as metrics.csv does. The end of --out says how it is written: png,
svg or pdf. python report.py makes a whole page of the same runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusion_fw.reports.reading import Run

USUAL = ("heldout/loss", "train/loss")
"""What is drawn besides the distance of the runs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the runs that the arguments name; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m diffusion_fw.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="the folder of a run or of a sweep")
    parser.add_argument("--out", type=Path, default=Path("compare.png"), help="the picture (compare.png)")
    parser.add_argument("--values", nargs="+", metavar="VALUE", help="which values, by their names in metrics.csv")
    given = parser.parse_args(arguments)

    from diffusion_fw.registry import ConfigError

    try:
        print(f"picture: {compare(given.folders, given.out, given.values)}")
    except (ConfigError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def compare(folders: Sequence[Path], out: Path, values: Sequence[str] | None = None) -> Path:
    """Draw the runs in these folders, or below them, into ``out``, which is returned.

    Raises ConfigError for a folder without a run, runs without curves, a value that none of them has, and another kind
    of picture.
    """
    from diffusion_fw.pictures.run_curves import run_curves
    from diffusion_fw.pictures.style import FORMATS
    from diffusion_fw.registry import ConfigError
    from diffusion_fw.registry.components import nearest
    from diffusion_fw.reports.reading import read_runs

    if out.suffix.removeprefix(".") not in FORMATS:
        raise ConfigError(f"--out {out}: must end in one of {', '.join(f'.{kind}' for kind in FORMATS)}")
    runs = {name: run for name, run in named(read_runs(folders)).items() if run.curves}
    known = list(dict.fromkeys(value for run in runs.values() for value in run.curves))
    if not known:
        raise ConfigError(f"{', '.join(map(str, folders))}: no run there has a metrics.csv with values; train first")
    distances = list(dict.fromkeys(run.best.metric for run in runs.values() if run.best))
    wanted = list(values or [value for value in (*distances, *USUAL) if value in known] or known[:3])
    for value in wanted:
        if value not in known:
            raise ConfigError(f"--values {value}: no run has it{nearest(value, known)}; they have {', '.join(known)}")
    panels = {value: {name: run.curves[value] for name, run in runs.items() if value in run.curves} for value in wanted}
    return run_curves(out, panels, floors(runs.values(), wanted))


def named(runs: Sequence[Run]) -> dict[str, Run]:
    """The runs by the overrides that not all of them share, or by their folder where these do not tell them apart."""
    shared = set.intersection(*(set(run.overrides) for run in runs))
    labels = [" ".join(item for item in run.overrides if item not in shared) for run in runs]
    return {
        label if label and labels.count(label) == 1 else " ".join(filter(None, [run.name, label])): run
        for label, run in zip(labels, runs, strict=True)
    }


def floors(runs: Iterable[Run], values: Sequence[str]) -> Mapping[str, float]:
    """The floor of each distance of which all runs state the same."""
    found: dict[str, set[float]] = {}
    for run in runs:
        if run.best and run.best.floor is not None:
            found.setdefault(run.best.metric, set()).add(run.best.floor)
    return {name: min(known) for name, known in found.items() if name in values and len(known) == 1}


if __name__ == "__main__":
    sys.exit(main())
