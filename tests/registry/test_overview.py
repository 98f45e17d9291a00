"""The names that --help lists, read from the sources: the same as those that are registered when all is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_fw import registry
from diffusion_fw.registry import discovery
from diffusion_fw.registry.overview import overview

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "lightning", "hydra", "omegaconf", "wandb", "numpy", "torchmetrics", "matplotlib", "tensorboard"}


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes a plugin file into the only folder of plugins."""
    monkeypatch.setenv(discovery.PLUGIN_VARIABLE, str(tmp_path))

    def write(content: str) -> None:
        (tmp_path / "overview_plugin.py").write_text(f"import diffusion_fw as dfw\n{content}\n")

    return write


@pytest.fixture
def imports(monkeypatch):
    """The calls by which everything is imported, in place of doing it."""
    calls: list[str] = []
    monkeypatch.setattr(discovery, "load_plugins", lambda: calls.append("all"))
    return calls


@pytest.mark.parametrize("group", registry.GROUPS)
def test_the_names_read_are_those_registered(group, monkeypatch):
    monkeypatch.setenv(discovery.PLUGIN_VARIABLE, "")
    built_in = [
        (name, entry.python_only)
        for name, entry in registry.entries(group).items()
        if "diffusion_fw" in Path(entry.source).parts and discovery.PLUGIN_PACKAGE not in entry.factory.__module__
    ]
    assert [(choice.name, choice.python_only) for choice in overview()[group]] == built_in


def test_a_plain_plugin_is_read_without_being_run(plugin, imports):
    plugin("import torch\n@dfw.register('schedule', 'shown')\nclass Shown: ...\nraise SystemExit")
    assert "shown" in [choice.name for choice in overview()["schedule"]]
    assert imports == []


@pytest.mark.parametrize(
    "content",
    [
        "for name in ('a', 'b'):\n    dfw.register('schedule', name)(object)",
        "NAME = 'a'\n@dfw.register('schedule', NAME)\nclass A: ...",
        "if True:\n    @dfw.register('schedule', 'a')\n    class A: ...",
        "from diffusion_fw import register as add\n@add('schedule', 'a')\nclass A: ...",
        "from my_components import A",
        "from . import _shared",
        "from diffusion_fw.plugins import other",
        "import importlib",
        "exec('...')",
        "@dfw.register('guidance', 'a')\nclass A: ...",
        "@dfw.register('sampler', 'ddim')\nclass A: ...",
        "@dfw.register('no_group', 'a')\nclass A: ...",
        "class",
    ],
)
def test_any_other_plugin_is_imported(plugin, imports, content):
    plugin(content)
    overview()
    assert imports == ["all"]


@pytest.mark.parametrize("command", [["train.py", "--help"], ["sample.py", "-h"], ["-c", "import diffusion_fw"]])
def test_help_and_the_package_import_nothing_heavy(command, tmp_path):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "diffusion_fw" in imported
    assert not imported & HEAVY
