"""What the documents point to exists."""

from __future__ import annotations

import re

import pytest
from documents import DOCUMENTS, ROOT, label

LINK = re.compile(r"\]\((?!\w+:)([^)#]+)(#[^)]*)?\)")
FOLDERS = r"(?:diffusion_fw|docs|tests|conf|plugins|benchmarks|scripts|hydra_plugins|\.ci|\.github)"
MENTION = re.compile(rf"`({FOLDERS}/[\w./-]*|\w+\.(?:md|toml|cff))`")


@pytest.mark.parametrize("path", DOCUMENTS, ids=label)
def test_every_relative_link_leads_to_a_file(path):
    targets = [target for target, _ in LINK.findall(path.read_text())]
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=label)
def test_every_path_of_the_repository_that_is_named_exists(path):
    assert [named for named in MENTION.findall(path.read_text()) if not (ROOT / named).exists()] == []


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=label)
def test_the_readme_or_a_page_of_it_leads_to_every_document(path):
    others = [other for other in DOCUMENTS if other != path]
    assert any(path.name in other.read_text() for other in others)
