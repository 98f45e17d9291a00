"""Data of bounded floats, as latents and audio are: measured, sampled and drawn as floats, not as pixels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion_fw as dfw
from diffusion_fw import registry
from diffusion_fw.app.evaluate import evaluate
from diffusion_fw.app.sample import sample
from diffusion_fw.app.train import train
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.composition.facts import Facts
from diffusion_fw.config.application import check_command_line

BOUND = 0.5


class Uniform(dfw.Data):
    """U[-1/2, 1/2] in every value."""

    value_range = (-BOUND, BOUND)

    def load(self, split):
        random = torch.Generator().manual_seed(int(split == "test"))
        return dfw.InMemory(2 * BOUND * (torch.rand(300, *self.shape, generator=random) - 0.5))


class Points(Uniform):
    default_features = "identity"
    shape = (2,)


class Latents(Uniform):
    default_features = "pixels"
    shape = (4, 8, 8)


class Unbounded(Latents):
    value_range = None  # type: ignore[assignment]


class WrongRange(Points):
    value_range = (0.0, 0.25)


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    monkeypatch.setitem(registry.components._entries, "data", dict(registry.entries("data")))
    for component in (Points, Latents, Unbounded, WrongRange):
        registry.register("data", component.__name__.lower())(component)


@pytest.fixture
def config(tiny):
    """config(data, changes) -> that of one step of a small network, evaluated on 64 samples."""

    def configured(name, changes=()):
        network = "mlp" if name in ("points", "wrongrange") else "unet"
        width = {"network.width": 8} if network == "mlp" else {"network.channels": 4, "network.channel_mult": [1]}
        features = registry.entry("data", name).factory.default_features
        small = {"trainer.max_steps": 1, "metric.num_samples": 64, **dict(changes)}
        return tiny({"data": name, "network": network, **width, "features": features, **small})

    return configured


@pytest.mark.parametrize("name", ["points", "latents"])
def test_a_perfect_model_of_bounded_floats_comes_near_the_floor(config, tmp_path, name):
    """The exact denoiser of the training examples draws them again."""
    experiment = build_experiment(config(name, {"sampler.steps": 50}), tmp_path)
    examples, _ = experiment.data.train.__getitems__(range(300))
    experiment.evaluation.wrap = lambda denoiser: dfw.oracles.Empirical(examples, denoiser.schedule)
    experiment.trainer.fit(experiment.module)
    ((_, distance),) = experiment.history.distances
    assert distance < 3 * experiment.metric.floor()


@pytest.mark.parametrize("name", ["points", "latents"])
def test_bounded_floats_are_sampled_as_floats_within_their_bounds(config, tmp_path, name):
    """guidance=[clip] is the default, an untrained network's x_0 leaves the bounds, and no byte stands for 1/2."""
    train(config(name), tmp_path)
    (tmp_path / "drawn").mkdir()
    checkpoint = f"checkpoint={tmp_path}/checkpoints/last.ckpt"
    sample(check_command_line("sample", [checkpoint, "device=cpu", "num_samples=16"])[0], tmp_path / "drawn")
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"samples.npz", "grid.png"}
    samples = np.load(tmp_path / "drawn" / "samples.npz")["samples"]
    assert samples.dtype == np.float32
    assert samples.shape == (16, *registry.build("data", name).shape)
    assert np.abs(samples).max() == BOUND


def test_evaluation_measures_bounded_floats_as_training_did(config, tmp_path):
    result = train(config("points", {"ema": "none"}), tmp_path)
    arguments = ["device=cpu", "sampler.steps=2", "metric.num_samples=64", f"metric.cache_dir={tmp_path}"]
    program = check_command_line("evaluate", [f"checkpoint={tmp_path}/checkpoints/last.ckpt", *arguments])[0]
    again = evaluate(program, tmp_path)
    assert (again.name, again.value) == (result.name, pytest.approx(result.value, rel=1e-5))
    assert json.loads((tmp_path / "evaluation.json").read_text())["reference_samples"] == 300


@pytest.mark.parametrize("name", ["latents", "unbounded"])
def test_floats_of_the_shape_of_images_are_drawn_from_black_to_white(config, tmp_path, name):
    experiment = build_experiment(config(name), tmp_path)
    low, high = experiment.data.bounds
    values = torch.full((1, 4, 8, 8), low)
    values[:, :3, :, 4:] = high
    with Image.open(experiment.evaluation.view.samples(tmp_path / "a.png", values)) as picture:
        cell = np.asarray(picture.convert("L"))[4:-4, 4:-4]
    assert (np.unique(cell[:, :32]), np.unique(cell[:, 32:])) == (0, 255)


def test_bounds_and_pixels_are_two_facts(tiny):
    found = {name: Facts.of(dfw.build("data", name), tiny()) for name in ("points", "unbounded", "digits")}
    assert {name: facts.pixels for name, facts in found.items()} == {
        "points": False,
        "unbounded": False,
        "digits": True,
    }
    assert found["points"].data_range == (-BOUND, BOUND)
    assert found["digits"].data_range == (-1.0, 1.0)
    values = dfw.build("data", "unbounded").train.values
    assert found["unbounded"].data_range == (float(values.min()), float(values.max()))


def test_a_range_that_the_data_leave_is_refused(config, tmp_path):
    """Clipping to it, which guidance=[clip] does by default, would change every sample."""
    with pytest.raises(dfw.ConfigError, match=r"outside the value_range=\(0, 0\.25\) of WrongRange"):
        build_experiment(config("wrongrange"), tmp_path)


def test_pixels_are_not_measured_against_floats(config, tmp_path):
    """As those of a checkpoint that states pixels for data of floats."""
    metric = build_experiment(config("points"), tmp_path).metric
    with pytest.raises(dfw.ConfigError, match=r"samples are torch\.uint8 but the held-out examples torch\.float32"):
        metric.update(torch.zeros(64, 2, dtype=torch.uint8))
