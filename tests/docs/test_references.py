"""docs/references.md holds every paper that is cited, under one key."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from documents import DOCUMENTS, PLUGINS, ROOT, label

BIBLIOGRAPHY = ROOT / "docs" / "references.md"
NAME = r"[A-Z][\w-]+"
CITATION = re.compile(rf"\b({NAME}(?: & {NAME}| et al\.)?) ((?:19\d|20[0-2])\d[a-z]?)\b(?!-)")
ENTRY = re.compile(r"^- \*\*(.+?)\*\*: \*.+?\*.*\. .+", flags=re.MULTILINE)
ARXIV = re.compile(r"\[arXiv:([^]]+)\]\(https://arxiv\.org/abs/([^)]+)\)")
FOLDERS = {"diffusion_fw": ("py", "json"), "conf": ("yaml",), "scripts": ("py",)}
CITING = [
    *(path for path in DOCUMENTS if path != BIBLIOGRAPHY),
    *PLUGINS,
    *(path for folder, kinds in FOLDERS.items() for kind in kinds for path in (ROOT / folder).rglob(f"*.{kind}")),
]


def keys() -> list[str]:
    return ENTRY.findall(BIBLIOGRAPHY.read_text())


def citations(text: str) -> set[str]:
    """The keys that a text cites, also across the end of a line or of a comment's line."""
    flat = re.sub(r"\s*\n\s*#?\s*", " ", text).replace(" and ", " & ")
    return {f"{authors} {year}" for authors, year in CITATION.findall(flat)}


def test_every_line_of_the_list_is_an_entry():
    lines = [line for line in BIBLIOGRAPHY.read_text().splitlines() if line.startswith("- ")]
    assert len(keys()) == len(lines) > 50


def test_the_reader_of_citations_finds_one_two_and_many_authors_across_lines():
    text = "As in Ho et\n    al. 2020, equation 4 (Song and\n# Ermon 2019; Karras et al. 2024b). Butcher 1966."
    text += " On 2026-01-02 it took 2048 steps."
    assert citations(text) == {"Ho et al. 2020", "Song & Ermon 2019", "Karras et al. 2024b", "Butcher 1966"}


def test_keys_are_sorted_and_unique():
    found = keys()
    assert found == sorted(found)
    assert len(set(found)) == len(found)


def test_a_letter_follows_the_year_exactly_where_two_papers_would_share_a_key():
    shared = Counter(key.rstrip("abcdefgh") for key in keys())
    for key in keys():
        plain = key.rstrip("abcdefgh")
        assert (key != plain) == (shared[plain] > 1), key


def test_an_arxiv_link_leads_to_the_number_that_it_shows():
    links = ARXIV.findall(BIBLIOGRAPHY.read_text())
    assert len(links) == BIBLIOGRAPHY.read_text().count("[arXiv:")
    assert all(shown == linked and re.fullmatch(r"\d{4}\.\d{4,5}", shown) for shown, linked in links)


@pytest.mark.parametrize("path", CITING, ids=label)
def test_every_citation_has_an_entry(path):
    assert citations(path.read_text()) - set(keys()) == set()


def test_every_entry_is_cited():
    cited = set().union(*(citations(path.read_text()) for path in CITING))
    assert set(keys()) - cited == set()
