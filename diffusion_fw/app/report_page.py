"""Compare runs: one HTML file with their table, charts, pictures and provenance."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from diffusion_fw.app.output import guard
from diffusion_fw.registry import ConfigError

HELP = """Compare runs on one HTML page, which needs no server and asks for nothing from anywhere.

    python report.py outputs/2026-01-31/12-00-00           # one run
    python report.py multirun/targets                      # a sweep; its end has written the page already
    python report.py multirun/targets multirun/samplers    # models, and evaluations of them

The page is report.html in the first folder, or the file that --out names. It shows what differs in the configs and what
came out, learning curves, the loss by log-SNR, quality against evaluations and time, samples over the training,
trajectories, and the provenance of each run. Runs that failed or have not finished are shown, too.
"""


def main() -> None:
    """The program `python report.py`; exit code 1 and one message for a mistake of the user."""
    guard()
    parser = argparse.ArgumentParser(
        prog="python report.py", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="the folder of a run or of a sweep")
    parser.add_argument("--out", "--output", type=Path, metavar="FILE", help="the file to write; it is replaced")
    given = parser.parse_args()
    from diffusion_fw.reports.page import write_report

    try:
        if given.out is not None and given.out.is_dir():
            raise ConfigError(f"--out {given.out} is a folder; give the name of a file in it, such as report.html")
        written = write_report(given.folders, given.out)
    except ConfigError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except OSError as error:
        place = given.out or given.folders[0]
        sys.exit(f"ConfigError: {place}: the page cannot be written: {error.strerror}; give another file by --out")
    print(written.describe())
