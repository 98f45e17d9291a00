"""Series and clips from a config to checkpoints, samples and numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion_fw as dfw
from diffusion_fw.data.dataset import WithFlips

SMALL = [
    "network.channels=4",
    "network.channel_mult=[1]",
    "trainer.accelerator=cpu",
    "trainer.max_steps=3",
    "metric.num_samples=8",
    "sampler.steps=2",
    "callbacks.evaluation.every=3",
    "callbacks.checkpoints.every=3",
    "logger=none",
    "batch_size=8",
    "data.num_examples=40",
]
EXPERIMENTS = {"tones": (1, 64), "moving_digits": (1, 6, 12, 12)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """trained(name) -> the folder of a run of three steps of an experiment, and the words about its data."""
    folder, done = tmp_path_factory.mktemp("runs"), {}

    def train(name):
        if name not in done:
            words = [f"experiment={name}", *SMALL, f"metric.cache_dir={folder / 'cache'}"]
            done[name] = dfw.train(dfw.compose(words), folder / name)
        return folder / name

    return train


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_trains_evaluates_and_draws(trained, name):
    run = trained(name)
    written = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {"samples.png", "real_and_generated.png", "samples/trajectory.png", "samples/trajectory.gif"} <= written
    assert {"checkpoints/last.ckpt", "checkpoints/best.ckpt", "config.yaml"} <= written
    assert ("real_and_generated.gif" in written) == (len(EXPERIMENTS[name]) == 4)


@pytest.mark.parametrize("mode", ["samples", "interpolate", "reconstruct", "trajectory", "neighbours", "encode"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_modes_leave_arrays_of_the_shape_of_the_data_and_a_picture(trained, tmp_path, name, mode):
    words = [f"checkpoint={trained(name)}", "num_samples=4", "device=cpu", f"mode={mode}", "sampler.steps=2"]
    words += ["mode.steps=[2]"] if mode == "reconstruct" else []
    outcome = dfw.sample(dfw.compose(words, "sample"), tmp_path)
    shape = EXPERIMENTS[name]
    arrays = [value for value in outcome.arrays.values() if value.ndim > len(shape)]
    assert arrays
    assert all(tuple(value.shape[-len(shape) :]) == shape for value in arrays)
    assert all(path.stat().st_size for path in outcome.pictures)
    if mode == "samples":
        values = outcome.arrays["samples"]
        assert values.dtype == (torch.float32 if name == "tones" else torch.uint8)
        images = sorted((tmp_path / "images").glob("*")) if name == "moving_digits" else []
        assert len(images) == (4 if images else 0)
        for path, clip in zip(images, values[:, 0], strict=False):
            with Image.open(path) as moving:
                assert moving.n_frames == len(clip)
                for frame, wanted in enumerate(clip):
                    moving.seek(frame)
                    assert np.array_equal(np.array(moving.convert("L")), wanted.numpy())


@pytest.mark.parametrize("metric", ["fid", "kid", "sliced_wasserstein", "memorization", "classification_accuracy"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_metrics_measure_them(trained, tmp_path, name, metric):
    words = [f"checkpoint={trained(name)}", "metric.num_samples=12", "device=cpu", "sampler.steps=2"]
    more = {"classification_accuracy": ["metric.steps=3", "metric.seeds=1"], "fid": ["ladder=true"]}.get(metric, [])
    words += [f"metric={metric}", f"metric.cache_dir={tmp_path / 'cache'}", *more]
    measured = dfw.evaluate(dfw.compose(words, "evaluate"), tmp_path / "out")
    assert all(np.isfinite(item.value) for item in measured)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_files_of_samples_are_compared_without_a_checkpoint(tmp_path, name):
    data = dfw.build("data", name, num_examples=80)
    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", samples=data.load(split).values.numpy())
    words = [f"samples={tmp_path / 'train.npz'}", f"reference={tmp_path / 'test.npz'}", "metric=kid", "device=cpu"]
    (measured,) = dfw.evaluate(dfw.compose(words, "evaluate"), tmp_path / "out")
    assert ("spectra" if name == "tones" else "clips") in measured.name
    assert np.isfinite(measured.value)


@pytest.mark.parametrize("network", ["ddpm_unet", "ddpmpp", "ncsnpp", "uvit", "edm2_unet", "k_diffusion_unet", "hdit"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_networks_of_images_refuse_them_by_the_shape(tmp_path, name, network):
    from diffusion_fw.composition.parts import compose_parts

    with pytest.raises(dfw.ConfigError, match=rf"network={network}.*images.*shape \(1, "):
        compose_parts(dfw.compose([f"data={name}", f"network={network}", "data.num_examples=10", "batch_size=8"]))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_for_images_refuses_them_by_its_key(name):
    from diffusion_fw.composition.parts import compose_parts

    shape = dfw.build("data", name).shape
    with pytest.raises(dfw.ConfigError, match="augmentation=edm"):
        dfw.build("augmentation", "edm", shape=shape)
    for features in ("digits", "pixels", "inception", "identity"):
        with pytest.raises(dfw.ConfigError, match=f"features={features}"):
            compose_parts(dfw.compose([f"data={name}", f"features={features}", "data.num_examples=10", "batch_size=8"]))


@pytest.mark.parametrize("shape", [(3,), (1, 6), (1, 4, 6), (1, 3, 4, 6)])
def test_mirror_images_are_of_any_rank(shape):
    values = torch.randn(5, *shape)
    both, _ = WithFlips(dfw.InMemory(values)).__getitems__(range(10))
    assert torch.equal(both, torch.cat([values, values.flip(-1)]))
