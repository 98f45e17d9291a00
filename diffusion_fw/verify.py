"""`python -m diffusion_fw.verify LINE`: whether a result of evaluate.py still holds, at 1% of its cost.

LINE is a line of results.jsonl itself, results.jsonl:NUMBER, or a results.jsonl or evaluation.json, of which all lines
are checked. The exit code is 0 if all of them hold, and 1 if not. Plugins are those of DIFFUSION_FW_PLUGINS and of
installed packages, as for `python -m diffusion_fw.checking`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the lines that the arguments name; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m diffusion_fw.verify",
        description="Measure 1% of a result again, and say whether it still holds.",
    )
    parser.add_argument("line", nargs="+", help="results.jsonl:NUMBER, a results.jsonl, an evaluation.json, or a line")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or mps")
    parser.add_argument("--batch-size", type=int, default=256)
    given = parser.parse_args(arguments)

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from diffusion_fw.app.verification import verify
    from diffusion_fw.registry import ConfigError, RegistrationError, discovery
    from diffusion_fw.runs.results import read_lines

    console, wrong = Console(), 0
    try:
        discovery.load_plugins()
        for line in (line for item in given.line for line in read_lines(item)):
            findings = verify(line, device=given.device, batch_size=given.batch_size)
            failed = [finding for finding in findings if not finding.holds]
            wrong += bool(failed)
            table = Table("compared", "the line states", "found now", "", title=escape(str(line.get("metric"))))
            for finding in findings:
                mark = "holds" if finding.holds else "[bold red]DIFFERS[/bold red]"
                table.add_row(escape(finding.what), escape(finding.stated), escape(finding.found), mark)
            console.print(table)
            names = ", ".join(finding.what for finding in failed)
            verdict = f"it does not hold: {names}" if failed else "it holds"
            console.print(f"{line['metric']} = {line['value']}: {verdict}", markup=False, highlight=False)
    except (ConfigError, RegistrationError) as error:
        console.print(f"{type(error).__name__}: {error}", markup=False, highlight=False, soft_wrap=True)
        return 1
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
