"""docs/plugins.md has a section for each group, and its examples keep the laws of their groups and train together."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
from documents import ROOT, code_blocks, sections

import diffusion_fw as dfw
from diffusion_fw import registry
from diffusion_fw.checking.conformance import CHECKS

GUIDE = (ROOT / "docs" / "plugins.md").read_text()
GROUPS = sorted(set(registry.GROUPS) - {"settings"})
REGISTERS = r'@dfw\.register\("{group}", "(\w+)"\)'


def example(group: str) -> tuple[str, str]:
    """The name that a section's example registers, and its source."""
    pattern = REGISTERS.format(group=group)
    (found,) = [block for block in code_blocks(sections(GUIDE)[group], "python") if re.search(pattern, block)]
    return re.findall(pattern, found)[0], found


@pytest.fixture
def registered(monkeypatch, tmp_path):
    """Registers the example of a group for the length of one test."""

    def register(group: str) -> str:
        monkeypatch.setitem(registry.components._entries, group, dict(registry.entries(group)))
        name, source = example(group)
        path = tmp_path / f"guide_{group}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)
        spec.loader.exec_module(module)
        return name

    return register


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_has_a_section_with_its_runtime_names_and_a_check(group):
    name, _ = example(group)
    text = sections(GUIDE)[group]
    assert "Runtime names: " in text
    (check,) = re.findall(r"^Check: `(.+)`$", text, flags=re.MULTILINE)
    command = re.escape(f"python -m diffusion_fw.checking {group}={name}")
    run = rf"python (train|sample)\.py '?{group}=(\[[\w,]*)?{name}\b.*"
    assert re.fullmatch(command if group in CHECKS else f"{command}|{run}", check)


@pytest.mark.parametrize("group", sorted(CHECKS))
def test_an_example_keeps_the_laws_of_its_group(registered, group):
    dfw.checking.check(group, registered(group))


@pytest.mark.parametrize("group", GROUPS)
def test_an_example_asks_for_runtime_names_of_its_section_alone(group):
    asked = re.findall(r"^ *(\w+): dfw\.Runtime", example(group)[1], flags=re.MULTILINE)
    listed = re.search(r"^Runtime names: (.+?)\n\n", sections(GUIDE)[group], flags=re.MULTILINE | re.DOTALL).group(1)
    assert {f"`{name}`" for name in asked} <= set(re.findall(r"`\w+`", listed))


def test_all_examples_train_one_run_and_evaluate_it(tmp_path):
    plugins, run = tmp_path / "plugins", tmp_path / "run"
    plugins.mkdir()
    for group in GROUPS:
        (plugins / f"guide_{group}.py").write_text(example(group)[1])
    beside = {"callbacks": "evaluation,checkpoints,", "logger": "csv,", "guidance": "", "augmentation": ""}
    # A codec is of images, and takes no augmentation: tests/codecs trains with the example. The network of the guide
    # takes no conditions.
    left_out = ("metric", "mode", "codec", "condition")
    choices = {group: example(group)[0] for group in GROUPS if group not in left_out}
    choices |= {group: f"[{names}{choices[group]}]" for group, names in beside.items()}
    small = [
        "data.num_examples=100",
        "sampler.steps=3",
        "metric.num_samples=8",
        "batch_size=8",
        "trainer.max_steps=10",
        "callbacks.evaluation.every=5",
        f"metric.cache_dir={tmp_path}/cache",
    ]
    programs = {
        "train": [*(f"{group}={choice}" for group, choice in choices.items()), *small, f"hydra.run.dir={run}"],
        "evaluate": [
            f"checkpoint={run}/checkpoints/last.ckpt",
            f"metric={example('metric')[0]}",
            f"hydra.run.dir={tmp_path}/evaluated",
        ],
        "sample": [
            f"checkpoint={run}/checkpoints/last.ckpt",
            f"mode={example('mode')[0]}",
            f"hydra.run.dir={tmp_path}/sampled",
        ],
    }
    for program, arguments in programs.items():
        result = subprocess.run(
            [sys.executable, ROOT / f"{program}.py", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "DIFFUSION_FW_PLUGINS": str(plugins)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in (run / "weight_norm.txt").read_text().splitlines()] == ["10"]
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()][-1] == 10
    measured = json.loads((tmp_path / "evaluated" / "evaluation.json").read_text())
    assert measured["metric"] == "denoising_error@0/ema"
    assert measured["error"] > 0
    assert {path.name for path in (tmp_path / "sampled").iterdir()} >= {"extremes.png", "extremes.npz"}
