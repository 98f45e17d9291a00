"""The command line: what it prints, writes and returns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusion_fw.checking import __main__ as check
from diffusion_fw.checking import built_ins, published
from diffusion_fw.objectives.weighting import Weighting
from diffusion_fw.registry import ConfigError

REPOSITORY = Path(check.__file__).parents[2]

PLUGIN = """
from dataclasses import dataclass
from diffusion_fw import register
from diffusion_fw.samplers.ddim import DDIM

@register("sampler", "boastful")
@dataclass(frozen=True)
class Boastful(DDIM):
    @property
    def order(self):
        return 2
"""


def run(folder: Path, *arguments: str, module: str = "diffusion_fw.checking") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_plugin_in_the_working_directory_that_fails_ends_with_1_and_a_picture(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "boastful.py").write_text(PLUGIN)
    result = run(tmp_path, "sampler=boastful")
    assert result.returncode == 1
    assert "FAILED order, vp: found 1.00, wanted the declared 2, within 0.15" in result.stdout
    assert Image.open(tmp_path / "outputs" / "checks" / "boastful.png").size[0] == 900


def test_a_mistake_of_the_users_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    result = run(tmp_path, "sampler=heunn")
    assert result.returncode == 1
    assert result.stderr.startswith("ConfigError: sampler=heunn: no such sampler - did you mean 'heun'?")


@pytest.mark.parametrize(("argument", "code"), [("weighting=p2", 0), ("weighting=p3", 1)])
def test_the_former_name_warns_on_stderr_and_ends_with_the_same_code(tmp_path, monkeypatch, argument, code):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    new, former = run(tmp_path, argument), run(tmp_path, argument, module="diffusion_fw.check")
    assert former.returncode == new.returncode == code
    assert former.stdout == new.stdout
    assert "FutureWarning: python -m diffusion_fw.check is now python -m diffusion_fw.checking" in former.stderr
    assert "FutureWarning" not in new.stderr


@pytest.mark.parametrize(
    ("arguments", "parsed"),
    [
        (["sampler=ddim"], ("sampler", "ddim", {})),
        (["sampler=ddim", "sampler.eta=0.5", "sampler.steps=10"], ("sampler", "ddim", {"eta": 0.5, "steps": 10})),
        (["grid.times=[0.9,0.5]", "grid=explicit"], ("grid", "explicit", {"times": [0.9, 0.5]})),
    ],
)
def test_a_component_and_its_parameters_are_read_as_the_other_programs_read_them(arguments, parsed):
    assert check.parse(arguments) == parsed


@pytest.mark.parametrize("arguments", [["ddim"], ["sampler=ddim", "grid=karras"], ["sampler=ddim", "grid.rho=3"], []])
def test_anything_else_is_refused(arguments):
    with pytest.raises(ConfigError):
        check.parse(arguments)


def test_all_writes_the_page_and_its_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = [("sampler", "ddim", {}), ("sampler", "ddpm", {}), ("weighting", "p2", {"gamma": 0.5})]
    monkeypatch.setattr(check, "every", lambda: few)
    monkeypatch.setattr(published, "entries", lambda entries=published.entries: entries()[:3])
    assert check.run(["all"])
    page = (tmp_path / "docs" / "checks.md").read_text()
    assert "| `ddim` | 1 | 1.00 | 1.00 | 1.00 | 1.00 |" in page
    assert "| weighting `p2` `gamma=0.5` |" in page
    assert "FAIL" not in page
    for picture in ("convergence.png", "samplers.png"):
        assert f"images/{picture}" in page
        assert Image.open(tmp_path / "docs" / "images" / picture).size[0] == 900


class Negative(Weighting):
    space = "eps"

    def __call__(self, level):
        return -torch.ones_like(level.t)


def test_a_failing_component_fails_all_and_stands_in_the_page(tmp_path, monkeypatch, registered, capsys):
    monkeypatch.chdir(tmp_path)
    name = registered("weighting", Negative)
    monkeypatch.setattr(check, "every", lambda: [("weighting", name, {}), ("sampler", "euler", {})])
    monkeypatch.setattr(published, "entries", list)
    assert not check.run(["all"])
    assert "weighting=broken: weights, vp: found -1 at t =" in capsys.readouterr().out
    (line,) = (line for line in (tmp_path / "docs" / "checks.md").read_text().splitlines() if "broken" in line)
    assert line.endswith("| **FAIL** |")


def test_the_committed_page_covers_every_built_in():
    page = (REPOSITORY / "docs" / "checks.md").read_text()
    for group, name, _ in built_ins.every():
        assert (f"| `{name}`" if group == "sampler" else f"| {group} `{name}`") in page
