"""A config from a stranger is values: no tag makes an object, no lookup is made, nothing unfolds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from diffusion_fw.app.recorded import read_config
from diffusion_fw.composition import plain
from diffusion_fw.config import check_command_line, checked
from diffusion_fw.registry import ConfigError

ROOT = Path(__file__).parents[2]


def test_what_a_run_writes_is_read_as_it_was(tiny, tmp_path):
    config = tiny()
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(plain(config), sort_keys=False))
    assert checked("train", read_config(path)) == config


TAGS = [
    "!!python/object/apply:os.system ['mkdir {path}']",
    "!!python/object/apply:os.mkdir ['{path}']",
    "!!python/object/apply:builtins.exec [\"__import__('os').mkdir('{path}')\"]",
    "!!python/object/new:os.mkdir ['{path}']",
    "!!python/object/apply:subprocess.Popen [[mkdir, '{path}']]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object/apply:pathlib.Path ['{path}']",
    "!custom {{}}",
]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("where", ["seed: {}", "network: {}", "{}", "trainer:\n  max_steps: {}", "? {}\n: 1"])
def test_a_tag_makes_no_object(tmp_path, tag, where):
    trap, path = tmp_path / "it_ran", tmp_path / "config.yaml"
    path.write_text(where.format(tag.format(path=trap)))
    with pytest.raises(ConfigError, match=r"config\.yaml cannot be read as a config") as error:
        read_config(path)
    assert "\n" not in str(error.value)
    assert not trap.exists()


@pytest.mark.parametrize("tag", TAGS[:2])
def test_read_without_care_the_tags_would_run(tmp_path, tag):
    trap = tmp_path / "it_ran"
    yaml.unsafe_load(tag.format(path=trap))
    assert trap.exists()


@pytest.mark.parametrize(
    "lookup",
    ["${oc.env:HOME}", "${oc.decode:[1]}", "${oc.create:{}}", "${seed}", "${hydra:runtime.cwd}", "${now:%Y}", "a${b}c"],
)
def test_a_lookup_is_refused_and_not_made(tmp_path, lookup, monkeypatch):
    monkeypatch.setenv("HOME", "secret")
    path = tmp_path / "config.yaml"
    for content, key in (
        ({"network": {"name": lookup}}, "network.name"),
        ({"logger": {"csv": [lookup]}}, "logger.csv"),
    ):
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(
            ConfigError, match=rf"{re.escape(key)} asks for a lookup \('{re.escape(lookup)}'\)"
        ) as error:
            read_config(path)
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &a [x, x]\nb: [*a, *a]\n", "alias"),
        ("&a [*a]", "alias"),
        ("a: {<<: &b {c: 1}}\nd: *b", "alias"),
        ("[" * 100_000, "cannot be read"),
        ("- 1", "not a mapping"),
        ("", "not a mapping"),
        ("a: b: c", "cannot be read"),
        ("1: 2", "is no text"),
        ("when: 2020-01-01", "is a date"),
        ("data: !!binary aGVsbG8=", "is a bytes"),
        ("data: !!set {a, b}", "is a set"),
        ("a: " + "x" * (1 << 20), "more than the 1,048,576"),
    ],
)
def test_what_is_no_config_is_refused(tmp_path, content, message):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as error:
        read_config(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 1000


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ConfigError, match="cannot be read as a config"):
        read_config(path)


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
def test_a_run_s_config_is_checked_like_the_command_line(tiny, tmp_path, change, message):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**plain(tiny()), **change}))
    with pytest.raises(ConfigError, match=message):
        checked("train", read_config(path))


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
