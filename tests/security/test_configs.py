"""A config holds values of registered components: nothing in it is instantiated, and no stray config is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_fw.composition.experiment import plain
from diffusion_fw.config.compose import check_command_line, checked
from diffusion_fw.registry import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {"_target_": "os.system", "_args_": ["true"]}}, "network has no component"),
        ({"network": {"name": "unet", "_target_": "os.system"}}, r"network\._target_: .*no such key"),
        ({"callbacks": {"mine": {"_target_": "builtins.exec"}}}, r"callbacks\.mine has no component"),
        ({"logger": {"mine": {"name": "os.system"}}}, r"logger=os\.system: no such logger"),
        ({"optimizer": {"name": "builtins.eval"}}, "no such optimizer"),
        ({"trainer": {"name": "default", "strategy": ["ddp"]}}, r"trainer\.strategy=\['ddp'\]: must be str"),
        ({"trainer": {"name": "default", "max_steps": "10"}}, r"trainer\.max_steps='10': must be int"),
    ],
)
def test_a_run_s_config_is_checked_like_the_command_line(tiny, change, message):
    with pytest.raises(ConfigError, match=message):
        checked("train", {**plain(tiny()), **change})


@pytest.mark.parametrize("word", ["+network._target_=os.system", "+network={_target_:os.system}", "network=os.system"])
def test_no_target_of_the_command_line_is_instantiated(tiny, word):
    with pytest.raises(ConfigError):
        check_command_line("train", [word])


def test_no_config_beside_the_user_is_read(tmp_path):
    """A folder conf, a config.yaml and a plugins folder in the working directory are not the program's."""
    trap = tmp_path / "it_ran"
    code = f"import os\nos.mkdir({str(trap)!r})\n"
    for name in ("conf", "plugins"):
        (tmp_path / name).mkdir()
    (tmp_path / "conf" / "train.yaml").write_text("defaults: [nowhere]\n")
    (tmp_path / "plugins" / "stranger.py").write_text(code)
    (tmp_path / "stranger.py").write_text(code)
    (tmp_path / "sitecustomize.py").write_text(code)
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "stranger.py").write_text(code)
    command = [sys.executable, str(ROOT / "train.py"), "explain=true", "data=moons", "network=mlp"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert not trap.exists()
