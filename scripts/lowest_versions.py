"""Print the lowest version of every dependency of the installed package that it allows, one a line, as pip takes them.

python -m venv lowest && lowest/bin/pip install -r <(python scripts/lowest_versions.py)
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Iterator


def lowest(requirements: Iterable[str]) -> Iterator[str]:
    """name==version for each requirement that no extra makes; ValueError for one that states no lowest version."""
    for requirement in requirements:
        if "extra ==" in requirement:
            continue
        found = re.search(r">=([0-9.]+)", requirement)
        if not found:
            raise ValueError(f"{requirement}: states no lowest version")
        yield f"{re.split('[<>=!~ ;]', requirement)[0]}=={found[1]}"


if __name__ == "__main__":
    print("\n".join(lowest(importlib.metadata.requires("diffusion-fw") or ())))
