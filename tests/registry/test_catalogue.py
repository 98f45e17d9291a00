"""The schemas that are kept in a file are those of the components, and they are read anew once a source changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_fw import registry
from diffusion_fw.registry import catalogue, components, describe, discovery, is_runtime

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "lightning", "wandb", "numpy", "torchmetrics", "matplotlib", "tensorboard"}


@pytest.fixture
def kept(tmp_path, monkeypatch, scratch_registry):
    """A folder of one plugin, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(discovery.PLUGIN_VARIABLE, str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "catalogued_plugin.py").write_text("VALUE = 1\n")
    return tmp_path


@pytest.mark.parametrize("group", registry.GROUPS)
def test_an_entry_read_from_the_file_is_checked_as_the_component_itself(group):
    for name, entry in registry.entries(group).items():
        read = catalogue._entry(group, name, catalogue.json.loads(catalogue.json.dumps(catalogue._data(entry))))
        for value in ("documentation", "summary", "source", "formerly", "python_only"):
            assert getattr(read, value) == getattr(entry, value)
        assert (dict(read.renamed), dict(read.absent)) == (entry.renamed, entry.absent)
        assert list(read.arguments) == list(entry.arguments)
        for key, parameter in entry.arguments.items():
            known = read.arguments[key]
            assert (known.required, is_runtime(known.annotation)) == (
                parameter.required,
                is_runtime(parameter.annotation),
            )
            if not is_runtime(parameter.annotation):
                assert describe(known.annotation) == describe(parameter.annotation)
                assert parameter.required or known.default == parameter.default
                assert type(known.default) is type(parameter.default)
        assert read.measured({}) == entry.measured({})


def test_what_is_read_is_what_was_written_until_a_source_changes(kept):
    assert catalogue._kept() is None
    written = catalogue._imported()
    read = catalogue._kept()
    assert {group: list(found) for group, found in read.items()} == {
        group: list(found) for group, found in written.items()
    }
    plugin = kept / "mine" / "catalogued_plugin.py"
    plugin.write_text("VALUE = 2\n")
    assert catalogue._kept() is None
    catalogue._imported()
    assert catalogue._kept()
    plugin.with_name("another.py").write_text("")
    assert catalogue._kept() is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sources": {}, "further": {}, "groups": 1}', "\x00"])
def test_a_damaged_file_is_read_anew(kept, content):
    catalogue._imported()
    catalogue._path().write_text(content)
    assert catalogue._kept() is None


def test_a_cache_that_cannot_be_written_costs_time_alone(kept):
    (kept / "cache").write_text("")
    assert catalogue._imported()
    assert catalogue._kept() is None


def test_a_component_is_imported_once_the_catalogue_is_left(kept):
    catalogue._imported()
    with catalogue.catalogued():
        assert components.catalogue
        with pytest.raises(RuntimeError, match="known by its signature alone"):
            registry.entry("schedule", "cosine").factory()
        catalogue.leave()
        assert registry.build("schedule", "cosine").num_steps == 1000
    assert not components.catalogue


def test_checking_a_command_line_imports_nothing_heavy(tmp_path):
    """Once the schemas are kept: help, mistakes, the config and a completion."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "COMP_LINE": "python train.py sampler=dd"}
    commands = (["train.py", "--help"], ["train.py", "sampler=ddmi"], ["sample.py", "checkpoint=x", "--cfg=job"])
    subprocess.run(
        [sys.executable, "-c", "from diffusion_fw.registry import catalogue, discovery; "
         "discovery.add_plugin_folders('plugins'); catalogue._imported()"],
        cwd=ROOT, env=environment, check=True,
    )  # fmt: skip
    for command in (*commands, ["train.py", "-sc", "query=bash"], ["-m", "diffusion_fw"]):
        found = subprocess.run(
            [sys.executable, "-X", "importtime", *command], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in found.stderr.splitlines()}
        assert "diffusion_fw" in imported
        assert not imported & HEAVY, command
        assert "Traceback" not in found.stderr
    assert found.stdout


def test_a_changed_default_in_the_file_is_noticed(kept, caplog):
    catalogue._imported()
    text = catalogue._path().read_text()
    catalogue._path().write_text(text.replace('"steps", ', '"stepz", ', 1))
    assert catalogue._path().read_text() != text
    assert catalogue._kept() is None
    assert "is damaged" in caplog.text


def test_a_plugin_that_gives_hydra_or_omegaconf_something_is_always_imported(kept):
    (kept / "mine" / "resolving_plugin.py").write_text("from omegaconf import OmegaConf\n")
    assert catalogue._imported()
    assert catalogue._kept() is None


def test_links_that_lead_nowhere_and_hidden_files_are_no_sources(kept):
    (kept / "mine" / ".#lock.py").symlink_to("nobody@host.1")
    (kept / "mine" / "gone.py").symlink_to("nowhere.py")
    assert not [path for path in catalogue._sources() if path.endswith(("lock.py", "gone.py"))]
