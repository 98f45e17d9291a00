"""The documents of the repository and what is read out of them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PLUGINS = sorted((ROOT / "plugins").glob("*.py"))


def label(path: Path) -> str:
    """A path as it is named in a test's id."""
    return path.relative_to(ROOT).as_posix()


def code_blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a Markdown text in one language; "" for those that name none."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def sections(text: str) -> dict[str, str]:
    """The text below each second-level heading, by heading."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
