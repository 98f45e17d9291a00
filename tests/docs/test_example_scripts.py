"""The scripts in examples/ run, at toy size, and do what they say."""

from __future__ import annotations

import runpy

import pytest
import torch
from documents import ROOT
from examples import TINY_WORDS

import diffusion_fw as dfw

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
QUICK = tuple(word for word in TINY_WORDS if not word.startswith(("data", "network=", "network.", "features")))


def main(name):
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"]


def test_every_script_has_a_test_and_a_place_in_the_readme():
    assert {path.stem for path in EXAMPLES} == {
        "compare_samplers",
        "diffusers_unet",
        "notebook",
        "own_dataset",
        "own_loop",
    }
    readme = (ROOT / "README.md").read_text()
    assert all(f"examples/{path.name}" in readme for path in EXAMPLES)


def test_a_loop_of_ones_own_leaves_a_checkpoint(tmp_path):
    path = main("own_loop")(tmp_path, steps=2, batch_size=8)
    config = dfw.compose([f"checkpoint={path}", "num_samples=2", "device=cpu", "sampler.steps=2"], "sample")
    assert config["sampler"] == {"name": "own", "steps": 2}
    assert dfw.sample(config, tmp_path / "out").arrays["samples"].shape == (2, 1, 8, 8)


def test_a_notebook_trains_samples_and_measures(tmp_path):
    small = ("network.channels=4", "network.channel_mult=[1]", "features=pixels", "trainer.max_steps=3", *QUICK)
    value = main("notebook")(tmp_path, (*small, f"metric.cache_dir={tmp_path}"), num_samples=20)
    assert value > 0


def test_a_unet_of_diffusers_is_trained_and_sampled(tmp_path):
    pytest.importorskip("diffusers")
    x = main("diffusers_unet")(tmp_path, steps=2, batch_size=4)
    assert x.shape == (10, 1, 8, 8)
    assert torch.load(tmp_path / "digits.pt", weights_only=True).dtype == torch.uint8


def test_a_dataset_of_ones_own_is_trained_on(tmp_path, scratch_registry):
    small = ("data.count=50", "network.width=8", "trainer.max_steps=3", f"metric.cache_dir={tmp_path}", *QUICK)
    assert main("own_dataset")(tmp_path, small).shape == (200, 2)


def test_samplers_are_compared_on_an_oracle():
    errors = main("compare_samplers")(evaluations=(10, 40), count=50)
    assert set(errors) == {"ddim", "heun", "dpm_solver_pp", "unipc", "deis"}
    assert all(few > 3 * many for few, many in errors.values())
    # Methods of order 2 and more are ahead of DDIM's order 1.
    assert all(errors[name][1] < errors["ddim"][1] for name in ("dpm_solver_pp", "unipc", "deis"))
