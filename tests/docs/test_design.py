"""docs/design.md shows the rooms and the public names as they are."""

from __future__ import annotations

import re

from documents import ROOT, code_blocks, sections

import diffusion_fw as dfw

DESIGN = (ROOT / "docs" / "design.md").read_text()
FORMER = {"check"}
"""Rooms that are kept for a release under their former name."""


def test_the_diagram_is_the_contract_that_ci_checks():
    (contract,) = re.findall(r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    layers = [set(re.findall(r"diffusion_fw\.(\w+)", line)) - FORMER for line in contract.splitlines()]
    (diagram,) = code_blocks(sections(DESIGN)["Rooms and layers"], "")
    shown = [set(re.split(r"\s{2,}", line)[0].split(" | ")) for line in diagram.splitlines()]
    assert shown == layers


def test_every_room_of_the_package_is_in_the_diagram():
    package = ROOT / "diffusion_fw"
    rooms = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    (diagram,) = code_blocks(sections(DESIGN)["Rooms and layers"], "")
    assert rooms - FORMER - {"__init__", "__main__"} <= set(re.findall(r"\w+", diagram))


def test_the_table_lists_exactly_the_public_names():
    rows = re.findall(r"^\| (`.+?) \|", sections(DESIGN)["Public names"], flags=re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(dfw.__all__)
