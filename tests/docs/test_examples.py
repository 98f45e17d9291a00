"""The Python of plugins/, README and docs: it compiles, and uses only the public names of the package."""

from __future__ import annotations

import ast

import pytest
from documents import DOCUMENTS, PLUGINS, code_blocks, label

import diffusion_fw as dfw

SOURCES = {
    **{label(path): path.read_text() for path in PLUGINS},
    **{
        f"{label(path)} {number}": block
        for path in DOCUMENTS
        for number, block in enumerate(code_blocks(path.read_text(), "python"), start=1)
    },
}


def package_names(source: str) -> set[str]:
    """What a source takes from diffusion_fw: imported names, dotted below a submodule, and those after ``dfw.``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffusion_fw"):
            below = (node.module or "").removeprefix("diffusion_fw").lstrip(".")
            found |= {".".join(filter(None, (below, alias.name))) for alias in node.names}
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            found |= {name.partition(".")[2] for name in names if name.startswith("diffusion_fw.")}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dfw":
            found.add(node.attr)
    return found


def test_the_reader_sees_every_way_of_importing():
    source = (
        "import diffusion_fw as dfw\nimport diffusion_fw.samplers\nfrom diffusion_fw import Sampler\n"
        "from diffusion_fw.process.level import expand\ndfw.Step"
    )
    assert package_names(source) == {"samplers", "Sampler", "process.level.expand", "Step"}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_only_public_names_are_used(source):
    assert package_names(source) <= set(dfw.__all__)


@pytest.mark.parametrize("name", dfw.__all__)
def test_every_public_name_can_be_had(name):
    assert getattr(dfw, name) is not None
