"""The data of a trained model may move: the same content is the same data."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_fw.app.evaluate import evaluate
from diffusion_fw.app.train import prepare, train
from diffusion_fw.checkpoints.read import read
from diffusion_fw.config.application import ask, check_command_line
from diffusion_fw.registry import ConfigError
from diffusion_fw.runs.resume import with_data_of_run


def pictures(folder, first=0):
    for seed in range(first, first + 60):
        path = folder / ("cat", "dog")[seed % 2] / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """The folder of a run whose data have moved, and where they are now."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny({"data": "image_folder", "data.path": str(pictures(folder / "pets")), "data.size": 8})
    train({**config, "trainer": {**config["trainer"], "max_steps": 3}}, folder / "run")
    (folder / "pets").rename(folder / "animals")
    return folder


def measured(run, *arguments):
    checkpoint = run / "run" / "checkpoints" / "last.ckpt"
    words = [f"checkpoint={checkpoint}", "device=cpu", "sampler.steps=2", "features=pixels", "metric.num_samples=8"]
    (run / "evaluated").mkdir(exist_ok=True)
    return evaluate(check_command_line("evaluate", [*words, *arguments])[0], run / "evaluated").value


def resumed(run, *arguments):
    (config,) = prepare(ask("train", [f"resume={run / 'run'}", *arguments], with_data_of_run))
    return config


def test_a_model_is_measured_where_its_data_are_now(run):
    with pytest.raises(ConfigError, match=r"data\.path=.*pets: no such path"):
        measured(run)
    value = measured(run, f"data.path={run / 'animals'}")
    shutil.copytree(run / "animals", run / "back" / "pets")
    assert measured(run, f"data.path={run / 'back' / 'pets'}") == value


def test_other_data_and_keys_of_other_data_are_refused(run):
    other = pictures(run / "other", 1000)
    with pytest.raises(ConfigError, match=r"data\.path=.*other: these are not the data of the training"):
        measured(run, f"data.path={other}")
    with pytest.raises(ConfigError, match=r"data\.root=.*: the model's own data=image_folder takes data\.path alone"):
        measured(run, f"data.root={other}")
    with pytest.raises(ConfigError, match=r"data\.size=9: .* takes data\.path alone here; for other data choose data="):
        measured(run, "data.size=9")


def test_data_that_changed_in_place_are_told(run, caplog):
    path = run / "pets"
    shutil.copytree(run / "animals", path)
    measured(run)
    assert "the data have changed" not in caplog.text
    shutil.copy(path / "cat" / "0.png", path / "cat" / "2.png")
    measured(run)
    assert "the data have changed since the training" in caplog.text
    shutil.rmtree(path)


def test_a_run_goes_on_with_moved_data_and_remembers_where_they_are(run, tmp_path):
    shutil.copytree(run / "run", tmp_path / "run")
    shutil.copytree(run / "animals", tmp_path / "animals")
    config = resumed(tmp_path, f"data.path={tmp_path / 'animals'}", "trainer.max_steps=6")
    train(config, tmp_path / "run")
    content = read(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert content["global_step"] == 6
    assert content["diffusion_fw"]["config"]["data"]["path"] == str(tmp_path / "animals")
    assert config["data"] == {**config["data"], "size": 8}
    with pytest.raises(ConfigError, match=r"data\.size=9 cannot be changed by resume"):
        resumed(tmp_path, f"data.path={tmp_path / 'animals'}", "data.size=9")
    other = pictures(tmp_path / "other", 1000)
    with pytest.raises(ConfigError, match="these are not the data of the training"):
        train(resumed(tmp_path, f"data.path={other}", "trainer.max_steps=9"), tmp_path / "run")


def test_a_checkpoint_without_fingerprints_is_measured(run, tmp_path):
    """As version 0.1.0 wrote them."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    content = read(run / "run" / "checkpoints" / "last.ckpt")
    del content["diffusion_fw"]["fingerprints"]
    torch.save(content, tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert measured(tmp_path, f"data.path={run / 'animals'}") > 0
