"""python sample.py mode=... and class=... on checkpoints."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_fw import registry
from diffusion_fw.app.help import print_help
from diffusion_fw.app.sample import sample
from diffusion_fw.app.trained_model import open_trained
from diffusion_fw.checkpoints.read import read
from diffusion_fw.config.application import check_command_line
from diffusion_fw.registry import ConfigError

SMALL = ["network.channels=4", "network.channel_mult=[1]", "sampler.steps=3"]
ARRAYS = {
    "samples": {"samples", "labels"},
    "trajectory": {"times", "x", "x0"},
    "decode": {"samples", "labels"},
    "encode": {"examples", "latents", "reconstructions", "labels"},
    "reconstruct": {"steps", "errors", "examples", "reconstructions"},
    "interpolate": {"weights", "latents", "samples"},
    "interpolate_noised": {"times", "weights", "ends", "samples"},
    "temperature": {"temperatures", "samples"},
    "neighbours": {"samples", "indices", "distances"},
}


@pytest.fixture(scope="module")
def conditional(untrained):
    return untrained("network.class_conditional=true", *SMALL)


@pytest.fixture(scope="module")
def unlabelled(untrained):
    return untrained("network.class_conditional=false", *SMALL)


def config(checkpoint, *words):
    return check_command_line("sample", [f"checkpoint={checkpoint}", "device=cpu", "num_samples=6", *words])[0]


@pytest.mark.parametrize("mode", registry.names("mode"))
def test_every_mode_leaves_a_picture_and_its_arrays(conditional, tmp_path, capsys, mode):
    np.savez(tmp_path / "given.npz", latents=np.ones((2, 1, 8, 8)), labels=np.array([3, 5]))
    more = {"reconstruct": ["mode.steps=[2,3]"], "decode": [f"mode.file={tmp_path / 'given.npz'}"]}
    words = [f"mode={mode}", "npz=true", *more.get(mode, [])]
    sample(config(conditional, *words), tmp_path)
    assert "by sampler=ddim, weights raw" in capsys.readouterr().out
    with np.load(tmp_path / f"{mode}.npz") as file:
        assert set(file) == ARRAYS[mode] | {"provenance"}
    (picture,) = tmp_path.glob("*.png")
    assert np.asarray(Image.open(picture).convert("L")).std() > 1


@pytest.mark.parametrize(
    ("words", "ignored"),
    [
        (["mode=samples", "data.root=elsewhere"], ["data"]),
        (["mode=temperature", "data=digits", "features=pixels", "mode.temperatures=[1]"], ["data", "features"]),
        (["mode=temperature", "data=digits", "mode.ends=data", "mode.temperatures=[1]"], []),
        (["mode=neighbours", "features=pixels"], ["features"]),
        (["mode=neighbours", "features=pixels", "mode.space=features"], []),
        (["mode=trajectory"], []),
    ],
)
def test_data_and_features_that_a_mode_does_not_take_are_told(conditional, tmp_path, caplog, words, ignored):
    sample(config(conditional, "num_samples=2", *words), tmp_path)
    assert [word for word in ("data", "features") if f"{word}=... is ignored: mode=" in caplog.text] == ignored


def test_samples_have_the_chosen_classes_in_turn(conditional, tmp_path):
    sample(config(conditional, "class=[3,1]", "npz=true"), tmp_path)
    assert np.load(tmp_path / "samples.npz")["labels"].tolist() == [3, 1, 3, 1, 3, 1]
    model = open_trained(config(conditional, "class=[3,1]"))
    x, noise = model.at_work(tmp_path).start(range(6))
    drawn = model.sampler(model.denoiser, x, cond=torch.tensor([3, 1, 3, 1, 3, 1]), noise=noise)
    found = np.load(tmp_path / "samples.npz")["samples"]
    assert np.abs(found - ((drawn.clamp(-1, 1) + 1) * 127.5).numpy()).max() <= 1


def test_the_picture_names_the_classes(conditional, unlabelled, tmp_path):
    sizes = {}
    for name, path, words in (("with", conditional, ["class=3"]), ("without", unlabelled, [])):
        (tmp_path / name).mkdir()
        sample(config(path, *words), tmp_path / name)
        sizes[name] = Image.open(tmp_path / name / "grid.png").size
    assert sizes["with"][1] > sizes["without"][1]


def test_a_class_may_be_given_by_its_name(conditional, tmp_path):
    content = read(conditional)
    content["diffusion_fw"]["facts"]["class_names"] = ["zero", "one", *map(str, range(2, 10))]
    torch.save(content, tmp_path / "named.ckpt")
    assert open_trained(config(tmp_path / "named.ckpt", "class=one")).chosen == (1,)
    assert open_trained(config(tmp_path / "named.ckpt", "class=[zero,2]")).chosen == (0, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("12", r"class=12: the model has the classes 0 to 9, called 0, 1, .*9$"),
        ("[0,cat]", r"class=cat: the model has the classes 0 to 9"),
        ("[]", r"class=\[\]: must have at least one class"),
        ("-1", r"class=-1: the model has the classes|class=-1: must be"),
    ],
)
def test_a_class_that_does_not_exist_is_refused_with_those_that_do(conditional, given, message):
    with pytest.raises(ConfigError, match=message):
        open_trained(config(conditional, f"class={given}"))


def test_a_model_without_classes_takes_none(unlabelled):
    with pytest.raises(ConfigError, match="class=3: the model takes no classes"):
        open_trained(config(unlabelled, "class=3"))


def test_help_lists_the_modes_and_the_class(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    print_help("sample", [])
    shown = capsys.readouterr().out
    for word in ("class", *registry.names("mode")):
        assert word in shown
    print_help("sample", ["mode=reconstruct"])
    assert "mode.steps" in capsys.readouterr().out
    print_help("train", [])
    assert "neighbours" not in capsys.readouterr().out


def test_the_parameter_of_a_reserved_word_is_a_key(scratch_registry):
    @registry.register("mode", "sorted_by_class")
    def made(class_: int = 1, other_: int = 2) -> tuple[int, int]:
        return class_, other_

    assert list(registry.entry("mode", "sorted_by_class").parameters) == ["class", "other_"]
    assert registry.build("mode", "sorted_by_class", **{"class": 5}) == (5, 2)
    assert list(inspect.signature(made).parameters) == ["class_", "other_"]
