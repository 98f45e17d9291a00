"""Modes of images and latents that the user has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_fw.app.sample import sample
from diffusion_fw.config.application import check_command_line
from diffusion_fw.registry import ConfigError

SMALL = ["network.channels=4", "network.channel_mult=[1]", "sampler.steps=3"]


@pytest.fixture
def images(tmp_path):
    """Two images of 8x8 pixels, one of them in colour, and a folder and a zip of both."""
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / "a.png")
    Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / "b.png")
    Image.fromarray(generator.integers(0, 256, (6, 8), dtype=np.uint8)).save(tmp_path / "other.png")
    return folder


@pytest.fixture
def run(untrained, tmp_path):
    """run(words, trained_with) -> what the mode found on an untrained model."""
    numbers = iter(range(100))

    def start(*words, trained_with=()):
        (tmp_path / f"out{(number := next(numbers))}").mkdir()
        given = [f"checkpoint={untrained(*SMALL, *trained_with)}", "device=cpu", "num_samples=4", *words]
        return sample(check_command_line("sample", given)[0], tmp_path / f"out{number}")

    return start


def as_values(path):
    return torch.from_numpy(np.array(Image.open(path).convert("L")))[None].float() / 127.5 - 1


def test_given_images_are_encoded_in_their_order(run, images):
    expected = torch.stack([as_values(images / "b.png"), as_values(images / "a.png")])
    found = run("mode=encode", f"mode.images=[{images / 'b.png'},{images / 'a.png'}]")
    assert torch.equal(found.arrays["examples"], expected)
    assert "labels" not in found.arrays
    whole = run("mode=reconstruct", f"mode.images={images}", "mode.steps=[2]")
    assert torch.equal(whole.arrays["examples"], expected.flip(0))
    single = run("mode=reconstruct", f"mode.images={images / 'a.png'}", "mode.steps=[2]")
    assert torch.equal(single.arrays["examples"], expected[1:])


def test_chosen_classes_are_those_of_the_images_in_turn(run, images):
    found = run("mode=encode", f"mode.images={images}", "class=[3,5]")
    assert found.arrays["labels"].tolist() == [3, 5]
    other = run("mode=encode", f"mode.images={images}", "class=[5,3]")
    assert torch.equal(found.arrays["examples"], other.arrays["examples"])


def test_both_interpolations_take_images(run, images):
    pair = f"[{images / 'a.png'},{images / 'b.png'}]"
    x0 = torch.stack([as_values(images / "a.png"), as_values(images / "b.png")])
    found = run("mode=interpolate_noised", f"mode.images={pair}", "mode.times=[0.5]", "mode.count=3")
    assert torch.equal(found.arrays["ends"], x0[None])
    latents = run("mode=encode", f"mode.images={pair}").arrays["latents"]
    between = run("mode=interpolate", f"mode.ends={pair}", "mode.count=3").arrays["latents"]
    torch.testing.assert_close(between[0, [0, 2]], latents)


def test_an_interpolation_between_seeds_ends_at_their_first_samples(run):
    found = run("mode=interpolate", "mode.ends=[7,3]", "mode.count=2", "class=4", "sampler=ddim")
    for index, seed in enumerate((7, 3)):
        sampled = run(f"seed={seed}", "npz=true", "class=4").arrays["samples"][0]
        pixels = ((found.arrays["samples"][0, index] + 1) * 127.5).round().clamp(0, 255)
        assert (pixels - sampled.float()).abs().max() <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mode=encode", "mode.images=none.png"], r"mode\.images: none\.png: there is no such file"),
        (["mode=encode", "mode.images=[]"], r"mode\.images=.*: holds no image"),
        (["mode=encode", "mode.images={other}"], r"mode\.images=.*other\.png: an image has 8 x 6 pixels; .*8 x 8"),
        (["mode=interpolate", "mode.ends=[{a}]"], r"mode\.ends: 1 images make no pairs"),
        (["mode=interpolate", "mode.ends=[1,2,3]"], r"mode\.ends=\[1, 2, 3\]: 3 seeds make no pairs"),
        (["mode=interpolate", "mode.ends=[]"], r"mode\.ends=\[\]: must be noise, data, a list of seeds or"),
        (["mode=interpolate", "mode.ends=[{a},{b}]", "class=[1,2]"], r"class=\[1, 2\]: both images of a pair need one"),
        (["mode=decode"], r"mode=decode needs the latents; give mode\.file=encode\.npz"),
        (["mode=decode", "mode.file={a}"], r"mode\.file: .*a\.png is not an npz file"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_its_key(run, images, words, message):
    places = {"a": images / "a.png", "b": images / "b.png", "other": images.parent / "other.png"}
    with pytest.raises(ConfigError, match=message):
        run(*(word.format(**places) for word in words))


def test_a_model_that_always_had_labels_needs_the_classes_of_images_and_latents(run, images, tmp_path):
    always = ["label_dropout=0"]
    with pytest.raises(ConfigError, match=r"mode\.images: the model takes labels, and learned nothing without"):
        run("mode=encode", f"mode.images={images}", trained_with=always)
    np.savez(tmp_path / "x.npz", latents=np.zeros((2, 1, 8, 8), dtype=np.float32))
    with pytest.raises(ConfigError, match=r"holds no labels, which the model takes"):
        run("mode=decode", f"mode.file={tmp_path / 'x.npz'}", trained_with=always)
    run("mode=encode", f"mode.images={images}", "class=1", trained_with=always)


def test_decoded_latents_are_the_reconstructions(run, images, tmp_path):
    found = run("mode=encode", f"mode.images={images}", "class=[3,5]")
    again = run("mode=decode", f"mode.file={tmp_path / 'out0' / 'encode.npz'}")
    expected = ((found.arrays["reconstructions"] + 1) * 127.5).round().clamp(0, 255)
    assert (again.arrays["samples"].float() - expected).abs().max() <= 1
    assert again.arrays["labels"].tolist() == [3, 5]
    assert again.pictures[0].name == "decode.png"
    np.savez(tmp_path / "rows.npz", latents=found.arrays["latents"].numpy()[:, None].repeat(3, 1))
    assert run("mode=decode", f"mode.file={tmp_path / 'rows.npz'}").arrays["samples"].shape == (6, 1, 8, 8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, "it must hold latents of floats .*but it holds none"),
        ({"latents": np.zeros((2, 8, 8))}, r"it must hold latents of floats \(\.\.\., 1, 8, 8\)"),
        ({"latents": np.zeros((2, 1, 8, 8), dtype=np.uint8)}, "it must hold latents of floats"),
        ({"latents": np.zeros((0, 1, 8, 8))}, "its latents must be at least one, and finite"),
        ({"latents": np.full((1, 1, 8, 8), np.nan)}, "its latents must be at least one, and finite"),
        ({"latents": np.zeros((2, 1, 8, 8)), "labels": np.array([1, 10])}, "its labels must be one integer"),
        ({"latents": np.zeros((2, 1, 8, 8)), "labels": np.array([1])}, "its labels must be one integer"),
    ],
)
def test_a_file_of_other_latents_is_refused(run, tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ConfigError, match=rf"mode\.file=.*x\.npz: {message}"):
        run("mode=decode", f"mode.file={tmp_path / 'x.npz'}")
