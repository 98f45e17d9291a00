"""Write the embedded emoji from the 32-pixel sheet and the list of the npm package emoji-datasource-google.

``python scripts/make_emoji.py sheet-32.png emoji.json`` writes emoji.png and emoji.json to diffusion_fw/data/assets:
every emoji without a skin tone, in Unicode's order, on white, its category and its names.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from PIL import Image

ASSETS = Path(__file__).parents[1] / "diffusion_fw" / "data" / "assets"
SIZE = 32
CELL = SIZE + 2  # the package's sheets leave a border of one pixel around each emoji
COLUMNS = 39


def caption(entry: dict[str, Any]) -> str:
    """The package's first short name, then the words of Unicode's name that are not in it, in small letters."""
    short = re.findall(r"\w+", entry["short_names"][0].replace("_", " ").lower())
    words = re.findall(r"\w+", (entry["name"] or "").lower())
    return " ".join(dict.fromkeys([*short, *words]))


def main() -> None:
    """Cut, composite on white, lay out without borders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sheet", type=Path, help="the package's img/google/sheets/32.png")
    parser.add_argument("list", type=Path, help="the package's emoji.json")
    arguments = parser.parse_args()

    entries = json.loads(arguments.list.read_text())
    entries = sorted((entry for entry in entries if entry["has_img_google"]), key=lambda entry: entry["sort_order"])
    classes = sorted({entry["category"] for entry in entries})
    source = Image.open(arguments.sheet).convert("RGBA")
    white = Image.new("RGBA", source.size, "white")
    source = Image.alpha_composite(white, source).convert("RGB")

    target = Image.new("RGB", (COLUMNS * SIZE, -(-len(entries) // COLUMNS) * SIZE), "white")
    for index, entry in enumerate(entries):
        left, top = entry["sheet_x"] * CELL + 1, entry["sheet_y"] * CELL + 1
        cell = source.crop((left, top, left + SIZE, top + SIZE))
        target.paste(cell, (index % COLUMNS * SIZE, index // COLUMNS * SIZE))
    target.save(ASSETS / "emoji.png", optimize=True)
    labels = [classes.index(entry["category"]) for entry in entries]
    content = {"classes": classes, "labels": labels, "captions": [caption(entry) for entry in entries]}
    (ASSETS / "emoji.json").write_text(json.dumps(content) + "\n")
    for path in (ASSETS / "emoji.png", ASSETS / "emoji.json"):
        print(f"{len(entries)} emoji, {path.stat().st_size} bytes in {path}")


if __name__ == "__main__":
    main()
