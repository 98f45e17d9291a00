"""Write the table of docs/interop.md: how far imported networks and their samples are from the originals'.

    python -m scripts.interop_table

It runs tests/interop and notes every difference that the tests measure against a record of the original code.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from scripts.peer_outputs import seeded

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "tests" / "interop" / "published"
DOCUMENT = ROOT / "docs" / "interop.md"
BEGIN, END = "<!-- Written by python -m scripts.interop_table. -->\n", "<!-- End of the table. -->\n"
SOURCES = {
    "ermongroup_ddim": "ermongroup/ddim",
    "improved_diffusion": "openai/improved-diffusion",
    "guided_diffusion": "openai/guided-diffusion",
    "score_sde": "yang-song/score_sde_pytorch",
    "edm": "NVlabs/edm",
    "edm_adm": "NVlabs/edm, ADM",
    "edm2": "NVlabs/edm2",
    "ncsn": "ermongroup/ncsn",
    "ncsnv2": "ermongroup/ncsnv2",
    "dit": "facebookresearch/DiT",
    "sit": "willisma/SiT",
    "uvit": "baofff/U-ViT",
    "k_diffusion": "crowsonkb/k-diffusion",
    "k_diffusion_hdit": "crowsonkb/k-diffusion, HDiT",
}


class Gaps:
    """Keeps the differences from the records, by the record's family."""

    def __init__(self) -> None:
        self.families = {
            json.dumps(output): path.stem
            for path in sorted(PUBLISHED.glob("*.json"))
            for record in json.loads(path.read_text())["records"]
            for output in ([record["output"]] if "shape" in record["output"] else record["output"].values())
        }
        self.found: dict[str, list[float]] = defaultdict(list)
        measure = seeded.gap

        def noted(output: Any, recorded: Any) -> float:
            value = measure(output, recorded)
            family = self.families.get(json.dumps(recorded))
            if family is not None:
                self.found[family].append(value)
            return value

        # Before the tests import it.
        seeded.gap = noted


def rows(gaps: Gaps) -> list[str]:
    """The lines of the table."""
    lines = [
        "| original code | commit | networks | largest difference of outputs | of samples |",
        "|---|---|---|---|---|",
    ]
    for family, source in SOURCES.items():
        if not gaps.found[family]:
            continue
        content = json.loads((PUBLISHED / f"{family}.json").read_text())
        samples = gaps.found.get(f"{family}_samples", [])
        drawn = f"{max(samples):.1e} ({len(samples)} loop{'s' * (len(samples) > 1)})" if samples else "not recorded"
        lines.append(
            f"| {source} | `{content['commit'][:12]}` | {len(content['records'])} | {max(gaps.found[family]):.1e} "
            f"| {drawn} |"
        )
    return lines


def main() -> None:
    """Run the tests and write the table; exit code 1 if one fails."""
    gaps = Gaps()
    if pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", str(ROOT / "tests" / "interop")]):
        sys.exit(1)
    text = DOCUMENT.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    DOCUMENT.write_text(before + BEGIN + "\n".join(rows(gaps)) + "\n" + END + after)


if __name__ == "__main__":
    main()
