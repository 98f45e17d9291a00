"""Models of latents by the programs: trained, sampled, evaluated and resumed, with one codec alone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from codec_choices import AUTOENCODER, LATENT

import diffusion_fw as dfw
from diffusion_fw import registry
from diffusion_fw.app.codec import with_codec
from diffusion_fw.app.evaluate import measurements
from diffusion_fw.app.sample import sample
from diffusion_fw.app.sample_source import open_source
from diffusion_fw.app.train import train
from diffusion_fw.checkpoints.read import read
from diffusion_fw.composition.parts import compose_parts
from diffusion_fw.config.application import ask, check_command_line
from diffusion_fw.data.dataset import to_pixels
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.archive import RECORD_KEY


@pytest.fixture
def drawn(latent_run, tmp_path):
    """drawn(arguments) -> the outcome of sample.py with the model of latents."""

    def draw(*arguments, run=latent_run):
        folder = tmp_path / f"drawn{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        fixed = [f"checkpoint={run}/checkpoints/last.ckpt", "device=cpu", "num_samples=4", "sampler.steps=3"]
        return sample(check_command_line("sample", [*fixed, *arguments])[0], folder)

    return draw


def test_a_run_leaves_its_codec_and_pictures_beside_its_checkpoints(latent_run, codec_file):
    assert (latent_run / "checkpoints" / "codec.safetensors").read_bytes() == codec_file.read_bytes()
    assert (latent_run / "real_and_decoded.png").exists()
    record = read(latent_run)[RECORD_KEY]
    assert record["facts"]["shape"] == [2, 4, 4]
    assert not record["facts"]["pixels"]
    assert (record["codec"]["shape"], record["codec"]["pixels"]) == ([1, 8, 8], True)


def test_samples_are_decoded_to_pixels(drawn, latent_run):
    samples = drawn().arrays["samples"]
    assert (samples.dtype, tuple(samples.shape)) == (torch.uint8, (4, 1, 8, 8))
    # By hand, from the model and its codec.
    space, denoiser = dfw.load_space(latent_run / "checkpoints" / "last.ckpt"), dfw.load(latent_run)
    config = read(latent_run)[RECORD_KEY]["config"]
    from diffusion_fw.composition.own import DRAWING, with_training
    from diffusion_fw.composition.parts import build_sampler
    from diffusion_fw.sampling.draw import draw

    program = check_command_line("sample", [f"checkpoint={latent_run}", "sampler.steps=3"])[0]
    own = with_training(program, config, DRAWING)
    clipped = dfw.build("guidance", "clip", denoiser=denoiser)
    counts = read(latent_run)[RECORD_KEY]["facts"]["class_counts"]
    ((_, x),) = draw(build_sampler(own), clipped, (2, 4, 4), range(4), seed=0, class_counts=counts)
    assert torch.equal(space.examples(x), samples)
    assert torch.equal(to_pixels(space.decode(x)), samples)


@pytest.mark.parametrize(
    ("mode", "shapes"),
    [
        ("interpolate", {"latents": (2, 9, 2, 4, 4), "samples": (2, 9, 1, 8, 8)}),
        ("reconstruct mode.steps=[2,3] sampler=ddim guidance=none", {"reconstructions": (2, 4, 1, 8, 8)}),
        ("encode sampler=ddim", {"examples": (4, 1, 8, 8), "latents": (4, 2, 4, 4), "reconstructions": (4, 1, 8, 8)}),
        ("trajectory", {"x": (4, 4, 1, 8, 8), "x0": (4, 4, 1, 8, 8)}),
        ("interpolate_noised", {"samples": (2, 4, 7, 1, 8, 8)}),
        ("temperature", {"samples": (4, 6, 1, 8, 8)}),
        ("neighbours", {"samples": (4, 1, 8, 8)}),
    ],
)
def test_every_mode_decodes(drawn, mode, shapes):
    outcome = drawn(*f"mode={mode}".split())
    assert {key: tuple(outcome.arrays[key].shape) for key in shapes} == shapes
    assert all(path.exists() for path in outcome.pictures)


def measured(run, folder, *arguments):
    fixed = [f"checkpoint={run}/checkpoints/last.ckpt", "device=cpu", "sampler.steps=2", "results=null"]
    return measurements(check_command_line("evaluate", [*fixed, *arguments])[0], folder, "")


def test_the_distance_is_of_decoded_samples(latent_run, tmp_path):
    (found, *_) = measured(latent_run, tmp_path, "metric=fid", "metric.num_samples=8")
    again = read(latent_run)["callbacks"]["History"]["distances"][-1][1]
    assert found.value == pytest.approx(again, rel=1e-6)
    # The floor is that of real examples, whatever the codec.
    assert found.floor < found.value
    line = json.loads((tmp_path / "evaluation.json").read_text())
    assert line["metric"] == "fid/pixels@8/ema"


def test_the_heldout_loss_is_of_latents_and_the_likelihood_is_refused(latent_run, tmp_path):
    (found,) = measured(latent_run, tmp_path, "metric=heldout_loss", "metric.num_images=20")
    assert 0 < found.value < 5
    with pytest.raises(ConfigError, match="the model is of latents of a codec"):
        measured(latent_run, tmp_path, "metric=nll")


def test_a_source_of_samples_states_its_codec(latent_run):
    config = check_command_line("evaluate", [f"checkpoint={latent_run}/checkpoints/last.ckpt", "device=cpu"])[0]
    record = read(latent_run)[RECORD_KEY]
    assert open_source(config).identity["codec"] == record["codec"]["fingerprint"]


@pytest.fixture(scope="module")
def other_codec(tiny, tmp_path_factory, own_cache):
    """The file of a codec that was trained from another seed."""
    folder = tmp_path_factory.mktemp("other")
    train(tiny({**AUTOENCODER, "seed": 1}), folder)
    return folder / "checkpoints" / "codec.safetensors"


@pytest.fixture
def moved(latent_run, tmp_path):
    """A copy of the run's checkpoint in a folder without its codec."""
    (tmp_path / "moved" / "checkpoints").mkdir(parents=True)
    shutil.copy(latent_run / "checkpoints" / "last.ckpt", tmp_path / "moved" / "checkpoints")
    return tmp_path / "moved"


def test_another_codec_is_refused(drawn, other_codec, moved):
    with pytest.raises(ConfigError, match=r"another codec than codec\.path"):
        drawn(f"codec.path={other_codec}")
    shutil.copy(other_codec, moved / "checkpoints" / "codec.safetensors")
    with pytest.raises(ConfigError, match=r"another codec than codec\.path"):
        drawn(run=moved)


def test_a_checkpoint_names_no_file_that_is_opened(drawn, moved, codec_file):
    assert read(moved)[RECORD_KEY]["config"]["codec"]["path"] == str(codec_file)
    with pytest.raises(ConfigError, match=r"there is no .*codec\.safetensors.*; put it there, or give codec\.path"):
        drawn(run=moved)
    assert drawn(f"codec.path={codec_file}", run=moved).arrays["samples"].shape == (4, 1, 8, 8)


def test_a_forged_record_is_refused(drawn, moved, codec_file):
    path = moved / "checkpoints" / "last.ckpt"
    shutil.copy(codec_file, path.with_name("codec.safetensors"))
    content = torch.load(path, weights_only=True)
    own = dict(content[RECORD_KEY]["codec"])
    for forged, message in (
        ({"scale": [0.0, 1.0]}, "damaged"),
        ({"scale": [float("nan"), 1.0]}, "damaged"),
        ({"shift": []}, "damaged"),
        ({"shape": [10**9] * 9}, "examples of shape"),
        ({"fingerprint": "0" * 16}, "another codec"),
    ):
        content[RECORD_KEY]["codec"] = {**own, **forged}
        torch.save(content, path)
        with pytest.raises(ConfigError, match=message):
            drawn(run=moved)
    content[RECORD_KEY]["codec"] = ["all"]
    torch.save(content, path)
    with pytest.raises(ConfigError, match="damaged"):
        drawn(run=moved)


def test_a_codec_is_for_models_of_latents_alone(drawn, tiny, tmp_path, codec_file):
    train(tiny({"callbacks": ["checkpoints"], "trainer.max_steps": 1}), tmp_path / "pixels")
    with pytest.raises(ConfigError, match="no model of latents"):
        drawn("codec=kl_autoencoder", f"codec.path={codec_file}", run=tmp_path / "pixels")
    assert not (tmp_path / "pixels" / "checkpoints" / "codec.safetensors").exists()
    assert "codec" not in read(tmp_path / "pixels")[RECORD_KEY]
    with pytest.raises(ConfigError, match="is a model of latents"):
        drawn("codec=none")


def test_what_changes_pixels_is_refused_in_front_of_a_codec(tiny, codec_file):
    chosen = {**LATENT, "codec.path": str(codec_file)}
    with pytest.raises(ConfigError, match=r"augmentation=\[uniform_dequantization\] changes pixels.*horizontal_flip"):
        compose_parts(tiny({**chosen, "augmentation": ["uniform_dequantization"]}))
    with pytest.raises(ConfigError, match=r"examples of shape \(1, 8, 8\)"):
        compose_parts(tiny({**chosen, "data": "emoji"}))


def test_an_autoencoder_is_trained_with_what_is_for_it_alone(tiny):
    for changes, message in (
        ({"objective": "simple"}, "network=kl_autoencoder is an autoencoder, which objective=simple does not train"),
        ({"network": "unet", "network.channels": 4}, "trains an autoencoder, and network=unet is none"),
        ({"metric": "fid", "metric.num_samples": 8}, "metric=fid need samples"),
        ({"callbacks": ["evaluation"]}, "callbacks=evaluation need samples"),
        ({"network.channel_mult": [1, 2, 2, 2, 2]}, "levels"),
    ):
        kept = {key: value for key, value in AUTOENCODER.items() if "network" not in changes or "network" not in key}
        with pytest.raises(ConfigError, match=message):
            compose_parts(tiny({**kept, **changes}))
    with pytest.raises(ConfigError, match="callbacks=reconstruction measures an autoencoder"):
        compose_parts(tiny({"callbacks": ["reconstruction"]}))


def test_a_checkpoint_of_an_autoencoder_draws_nothing(autoencoder):
    with pytest.raises(ConfigError, match=r"holds an autoencoder.*codec\.path=.*codec\.safetensors"):
        dfw.load(autoencoder / "checkpoints" / "last.ckpt")


def test_a_run_of_latents_goes_on_to_the_bit(tiny, tmp_path, latent_run, codec_file):
    whole = {**LATENT, "codec.path": str(codec_file), "trainer.max_steps": 4, "callbacks": ["checkpoints"]}
    train(tiny(whole), tmp_path / "whole")
    train(tiny({**whole, "trainer.max_steps": 2}), tmp_path / "parts")
    from diffusion_fw.runs.resume import resumed

    asked = ask("train", [f"resume={tmp_path / 'parts'}", "trainer.max_steps=4"])
    config = resumed(asked.configs[0], asked)
    train(config, tmp_path / "parts")
    one, two = (read(tmp_path / name)["state_dict"] for name in ("whole", "parts"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    (tmp_path / "parts" / "checkpoints" / "codec.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"the codec of the run; put it there"):
        train({**config, "trainer": {**config["trainer"], "max_steps": 5}}, tmp_path / "parts")


def test_a_run_that_starts_from_other_latents_is_refused(tiny, tmp_path, latent_run, other_codec):
    changes = {**LATENT, "codec.path": str(other_codec), "init_from": str(latent_run)}
    with pytest.raises(ConfigError, match=r"init_from=.* more than 10% off"):
        train(tiny(changes), tmp_path / "from")


def test_the_codec_is_trained_first_and_kept(tiny, tmp_path, own_cache, monkeypatch):
    from diffusion_fw.app import codec as module

    monkeypatch.setattr(module, "training_of", lambda config: tiny({**AUTOENCODER, "trainer.max_steps": 2}))
    config = tiny({**LATENT, "callbacks": ["checkpoints"]})
    with pytest.raises(ConfigError, match=r"python train\.py experiment=autoencoder"):
        compose_parts(with_codec(config, None))
    train(config, tmp_path / "first")
    assert (tmp_path / "first" / "codec" / "checkpoints" / "codec.safetensors").exists()
    train(config, tmp_path / "second")
    assert not (tmp_path / "second" / "codec").exists()
    assert read(tmp_path / "second")[RECORD_KEY]["config"]["codec"]["path"] is None
    assert compose_parts(with_codec(config, None)).facts.shape == (2, 4, 4)


def test_the_experiment_trains_its_own_codec_on_its_data(monkeypatch):
    from diffusion_fw.app.codec import training_of

    config = dfw.compose(["experiment=latent_digits", "seed=3"])
    own = training_of(config)
    assert (own["network"]["name"], own["data"], own["seed"]) == ("kl_autoencoder", config["data"], 3)
    with pytest.raises(ConfigError, match="trains no codec"):
        training_of(dfw.compose(["experiment=latent_digits", "codec.experiment=flow"]))
    with pytest.raises(ConfigError, match="a run of 2 processes does not train its codec"):
        training_of(dfw.compose(["experiment=latent_digits", "trainer.devices=2", "trainer.strategy=ddp"]))


def test_a_plugin_of_the_guide_without_weights_needs_no_file(tiny, tmp_path, drawn, own_cache, monkeypatch):
    monkeypatch.setitem(registry.components._entries, "codec", dict(registry.entries("codec")))
    guide = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    (source,) = re.findall(
        r"^```python\n(.*?)^```", guide.partition("\n## codec\n")[2].partition("\n## ")[0], re.M | re.S
    )
    exec(compile(source, "guide", "exec"), {"__name__": "guide_codec"})
    train(tiny({"codec": "pooled", "callbacks": ["checkpoints"], "trainer.max_steps": 1}), tmp_path / "pooled")
    assert drawn(run=tmp_path / "pooled").arrays["samples"].shape == (4, 1, 8, 8)


def test_an_autoencoder_that_learns_has_a_smaller_error(autoencoder):
    values = dfw.to_model(dfw.build("data", "digits").test.values)
    codec = dfw.build("codec", "kl_autoencoder", path=str(autoencoder / "checkpoints" / "codec.safetensors"))
    back = codec.decode(codec.encode(values), (1, 8, 8))
    assert float((back - values).square().mean()) < 0.6 * float(values.var())
