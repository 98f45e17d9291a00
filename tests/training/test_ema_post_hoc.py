"""An average of any length after training: its profile, its weights, and what is refused."""

from __future__ import annotations

import json
import os
import random
import shutil

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import diffusion_fw as dfw
from diffusion_fw.app.evaluate import evaluate
from diffusion_fw.cache import DIGEST
from diffusion_fw.checkpoints.load import load_chosen
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.config.application import check_command_line
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.power_profile import Profile, fit, inner


def snapshots(count, steps=960):
    return [Profile(std, steps * (k + 1) // count) for k in range(count) for std in (0.05, 0.1)]


def discrete(profile):
    """What the average weighs each step with."""
    return (torch.arange(profile.time + 1, dtype=torch.float64) / profile.time).pow(profile.gamma + 1).diff()


@pytest.mark.parametrize(("first", "second"), [((0.05, 30.0), (0.1, 30.0)), ((0.2, 12.0), (0.05, 30.0))])
def test_inner_products_are_the_integrals(first, second):
    first, second = Profile(*first), Profile(*second)
    t = (torch.arange(300_000, dtype=torch.float64) + 0.5) * 1e-4
    integral = float((first.density(t) * second.density(t)).sum()) * 1e-4
    assert inner(first, second) == pytest.approx(integral, rel=1e-4)
    assert inner(first, second) == inner(second, first)


@pytest.mark.parametrize("std", [0.05, 0.1])
def test_a_profile_that_is_there_is_itself(std):
    profiles = snapshots(10)
    found = fit(Profile(std, 960), profiles)
    expected = [float(profile == found.target) for profile in profiles]
    assert found.coefficients == pytest.approx(expected, abs=1e-6)
    assert found.residual < 1e-6


@pytest.mark.parametrize("std", [0.02, 0.07, 0.15, 0.25])
def test_the_residual_is_that_of_the_densities_and_falls_with_more_snapshots(std):
    t = (torch.arange(96_000, dtype=torch.float64) + 0.5) / 100
    residuals = []
    for count in (4, 12, 32):
        found = fit(Profile(std, 960), snapshots(count))
        wanted = found.target.density(t)
        assert sum(found.coefficients) == pytest.approx(1, abs=1e-9)
        assert found.residual == pytest.approx(float((found.density(t) - wanted).norm() / wanted.norm()), rel=0.02)
        residuals.append(found.residual)
    assert residuals[0] > 1.5 * residuals[1] > 3 * residuals[2]


@pytest.mark.parametrize(("std", "error"), [(0.02, 0.02), (0.07, 1e-3), (0.15, 1e-3), (0.2, 5e-3)])
def test_a_random_walk_s_average_is_that_tracked_exactly(std, error):
    """Far from zero, as weights can be; the error is relative to what averaging changes."""
    walk = torch.randn(960, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0) / 30 + 5
    exact = discrete(Profile(std, 960)) @ walk
    errors = []
    for count in (8, 32):
        found = fit(Profile(std, 960), snapshots(count))
        made = sum(x * (discrete(p) @ walk[: p.time]) for x, p in zip(found.coefficients, found.profiles, strict=True))
        errors.append(float((made - exact).norm() / (walk[-1] - exact).norm()))
    assert errors[1] < error
    assert errors[1] < errors[0] / 3


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """60 steps with a snapshot every third, resumed in the middle, and the folder of one that was not."""
    folder = tmp_path_factory.mktemp("post_hoc")
    changes = {"data": "moons", "network": "mlp", "network.width": 16, "features": "identity", "ema": "post_hoc"}
    common = {"ema.every": 3, "callbacks.evaluation.every": 1000, "callbacks.checkpoints.every": 1000}
    config = tiny({**changes, **common, "trainer.max_steps": 60})
    for name, steps, checkpoint in (
        ("whole", 60, None),
        ("stopped", 31, None),
        ("stopped", 60, folder / "stopped" / "checkpoints" / "last.ckpt"),
    ):
        part = {**config, "trainer": {**config["trainer"], "max_steps": steps}}
        experiment = build_experiment(part, folder / name)
        experiment.trainer.fit(experiment.module, ckpt_path=checkpoint)
    return config, folder


def test_a_resumed_run_leaves_the_same_snapshots_to_the_bit(run):
    _, folder = run
    names = [path.name for path in sorted((folder / "whole" / "snapshots").iterdir())]
    assert names == [f"step_{step:09d}.safetensors" for step in range(3, 61, 3)]
    for name in names:
        whole, stopped = (folder / part / "snapshots" / name for part in ("whole", "stopped"))
        assert whole.read_bytes() == stopped.read_bytes()


@pytest.mark.parametrize("std", [0.07, 0.15])
def test_the_average_of_a_run_is_that_tracked_exactly(run, tmp_path, std):
    config, folder = run
    experiment = build_experiment({**config, "ema": {"name": "power_function", "std": std}}, tmp_path)
    experiment.trainer.fit(experiment.module)
    made = dfw.load(folder / "whole" / "checkpoints" / "last.ckpt", ema_std=std).state_dict()
    exact, raw = experiment.module.averaged.state_dict(), experiment.module.denoiser.state_dict()
    distance = sum(float((made[key] - exact[key]).square().sum()) for key in exact)
    changed = sum(float((raw[key] - exact[key]).square().sum()) for key in exact)
    assert distance < 0.02**2 * changed


def test_evaluation_says_the_length_and_draws_the_profile(run, tmp_path):
    checkpoint = run[1] / "whole" / "checkpoints" / "last.ckpt"
    arguments = ["features=identity", "metric.num_samples=8", f"metric.cache_dir={tmp_path}", "sampler.steps=2"]
    evaluate(check_command_line("evaluate", [f"checkpoint={checkpoint}", "ema.std=0.07", *arguments])[0], tmp_path)
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["metric"] == "fid/identity@8/ema(std=0.07, reconstructed)"
    assert 0 < written["reconstruction"]["residual"] < 0.05
    with Image.open(tmp_path / "ema_profile.png") as picture:
        picture.load()


def test_a_tracked_average_and_one_that_was_made_have_different_names(run):
    checkpoint = run[1] / "whole" / "checkpoints" / "last.ckpt"
    names = [load_chosen(checkpoint, std=std)[2].name for std in (0.05, 0.07)]
    assert names == ["ema(std=0.05)", "ema(std=0.07, reconstructed)"]


@pytest.mark.parametrize("std", [0.3, 0.0])
def test_a_length_that_no_average_has_is_an_error(run, std):
    with pytest.raises(ConfigError, match=r"ema\.std=.*between"):
        dfw.load(run[1] / "whole" / "checkpoints" / "last.ckpt", ema_std=std)


def test_a_checkpoint_without_its_snapshots_says_where_they_would_be(run, tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    path.write_bytes((run[1] / "whole" / "checkpoints" / "last.ckpt").read_bytes())
    with pytest.raises(ConfigError, match=r"ema\.std=0\.07: no snapshots .*snapshots"):
        dfw.load(path, ema_std=0.07)
    damaged = tmp_path / "snapshots" / "step_000000003.safetensors"
    damaged.parent.mkdir()
    damaged.write_bytes(b"\xff" * 100)
    with pytest.raises(ConfigError, match=r"step_000000003\.safetensors is damaged"):
        dfw.load(path, ema_std=0.07)


@pytest.fixture
def copied(run, tmp_path):
    """The whole run's newest checkpoint and its snapshots, in a folder to damage."""
    shutil.copytree(run[1] / "whole", tmp_path / "copied")
    return tmp_path / "copied"


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_of_a_snapshot_is_refused(copied, seed):
    """Whatever it changes: a value, a name, a shape, the lengths, or the hashes."""
    path = copied / "snapshots" / "step_000000030.safetensors"
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    draws = random.Random(seed)
    place = draws.randrange(header) if seed < 10 else draws.randrange(header, len(content))
    content[place] ^= 1 << draws.randrange(8)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"step_000000030\.safetensors (is damaged|holds the weights of another)"):
        dfw.load(copied / "checkpoints" / "last.ckpt", ema_std=0.07)


def test_a_snapshot_of_another_step_is_refused(copied):
    snapshots = copied / "snapshots"
    (snapshots / "step_000000030.safetensors").replace(snapshots / "step_000000031.safetensors")
    with pytest.raises(ConfigError, match=r"step_000000031\.safetensors is damaged; .*hash"):
        dfw.load(copied / "checkpoints" / "last.ckpt", ema_std=0.07)


def test_snapshots_of_the_version_that_wrote_no_hashes_are_read(run, copied):
    for path in (copied / "snapshots").iterdir():
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        del tensors[DIGEST]
        save_file(tensors, path, metadata)
    checkpoints = [folder / "checkpoints" / "last.ckpt" for folder in (copied, run[1] / "whole")]
    old, new = (dfw.load(checkpoint, ema_std=0.07).state_dict() for checkpoint in checkpoints)
    assert all(torch.equal(old[key], new[key]) for key in new)


def test_a_pipe_among_the_snapshots_is_refused(copied):
    path = copied / "snapshots" / "step_000000030.safetensors"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"step_000000030\.safetensors is damaged.*pipe"):
        dfw.load(copied / "checkpoints" / "last.ckpt", ema_std=0.07)
