"""Record the outputs of one family: python -m scripts.peer_outputs FAMILY CLONE."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).parents[2] / "tests" / "interop" / "published"


def main() -> None:
    """Import the family from the clone and write its records."""
    family, clone, *commit = sys.argv[1:]
    torch.set_num_threads(1)
    sys.path.insert(0, clone)
    records = list(importlib.import_module(f"scripts.peer_outputs.{family}").records())
    if not commit:
        commit = [
            subprocess.run(["git", "-C", clone, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
        ]
    FOLDER.mkdir(parents=True, exist_ok=True)
    content = {"torch": torch.__version__, "commit": commit[0], "records": records}
    (FOLDER / f"{family}.json").write_text(json.dumps(content, indent=None, separators=(",", ":")) + "\n")
    print(f"{len(records)} records of {family}")


if __name__ == "__main__":
    main()
