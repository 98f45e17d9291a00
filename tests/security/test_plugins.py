"""A plugin is loaded only from the folders and entry points that the user named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import diffusion_fw as dfw
from diffusion_fw import registry
from diffusion_fw.registry import ConfigError, discovery

CODE = "from pathlib import Path\nPath({!r}).touch()\n"


@pytest.fixture
def python(tmp_path):
    """python(code, folder, **environment): what a fresh interpreter prints, started in a folder."""

    def run(code, folder, **environment):
        root = str(Path(__file__).parents[2])
        # A script puts its own folder on the path, as train.py does; -c would put the working directory there.
        script = tmp_path / "script" / "run.py"
        script.parent.mkdir(exist_ok=True)
        script.write_text(code)
        result = subprocess.run(
            [sys.executable, str(script)],
            capture_output=True,
            text=True,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": root, **environment},
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.split()

    return run


LOAD = "from diffusion_fw.registry import discovery; print(*discovery.load_plugins())"


@pytest.fixture
def folders(tmp_path):
    """A working directory full of plugins that nobody named, one with an entry point, and a folder that was named."""
    home, named, trap = tmp_path / "home", tmp_path / "named", tmp_path / "it_ran"
    for folder in (home, home / "plugins", home / "data", named, home / "evil-1.0.dist-info"):
        folder.mkdir()
    for path in (home / "evil.py", home / "plugins" / "evil.py", home / "data" / "evil.py"):
        path.write_text(CODE.format(str(trap)))
    (home / "evil-1.0.dist-info" / "entry_points.txt").write_text("[diffusion_fw.plugins]\nevil = evil\n")
    (home / "evil-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (named / "good.py").write_text("")
    return home, named, trap


@pytest.mark.parametrize("variable", ["", ":", "::", "{named}", ":{named}:", "../named"])
def test_only_named_folders_are_searched(python, folders, variable):
    """An empty part of the variable is no folder, least of all the working directory."""
    home, named, trap = folders
    loaded = python(LOAD, home, DIFFUSION_FW_PLUGINS=variable.format(named=named))
    assert loaded == (["diffusion_fw.plugins.good"] if "named" in variable else [])
    assert not trap.exists()


def test_a_relative_folder_stays_where_the_user_was_when_it_was_named(python, folders, tmp_path):
    """A process that changes its directory, or a child that starts elsewhere, does not come upon another folder."""
    home, _, trap = folders
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "good.py").write_text("")
    code = (
        "import os; from diffusion_fw.registry import discovery; print(*discovery.load_plugins()); "
        f"os.chdir({str(home)!r}); print(*discovery.load_plugins()); print(os.environ['DIFFUSION_FW_PLUGINS'])"
    )
    found = python(code, tmp_path, DIFFUSION_FW_PLUGINS="plugins")
    assert found == ["diffusion_fw.plugins.good"] * 2 + [str(tmp_path / "plugins")]
    assert not trap.exists()


def test_without_care_the_working_directory_would_run(python, folders):
    home, _, trap = folders
    python(LOAD, home, DIFFUSION_FW_PLUGINS=".")
    assert trap.exists()  # named by the user: this is what loading it does


def test_a_data_folder_is_not_searched(folders, monkeypatch):
    home, _, trap = folders
    data = dfw.build("data", "image_folder", path=str(home / "data"))
    with pytest.raises(ConfigError, match="holds no images"):
        _ = data.train
    assert not trap.exists()


def test_a_name_that_looks_like_a_path_is_only_a_name(folders):
    home, _, trap = folders
    for name in (str(home / "evil.py"), "diffusion_fw.plugins.evil", "../evil", "evil"):
        with pytest.raises(ConfigError, match="no such network"):
            registry.build("network", name)
    assert not trap.exists()


def test_a_folder_that_is_not_there_is_named(folders, monkeypatch):
    monkeypatch.setenv("DIFFUSION_FW_PLUGINS", "nowhere")
    with pytest.raises(ConfigError, match=r"plugin folder .*nowhere does not exist"):
        discovery.plugin_files()
