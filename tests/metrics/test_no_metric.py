"""metric=none: a run without a distance, on as little as one image."""

from __future__ import annotations

import csv
import json
import math

import pytest
import torch
from PIL import Image

import diffusion_fw as dfw
from diffusion_fw.app.evaluate import evaluate
from diffusion_fw.app.train import train
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.config.application import check_command_line
from diffusion_fw.training.callbacks.evaluation import Evaluation


@pytest.fixture
def single(tmp_path):
    """The changes to the config of a run on a single image."""
    folder = tmp_path / "one"
    folder.mkdir()
    Image.new("RGB", (8, 8), (255, 128, 0)).save(folder / "orange.png")
    return {"data": "image_folder", "data.path": str(folder), "data.size": 8, "batch_size": 1}


def heldout(folder):
    with (folder / "metrics.csv").open() as file:
        return [float(row["heldout/loss"]) for row in csv.DictReader(file) if row["heldout/loss"]]


def test_a_model_is_trained_on_a_single_image(tiny, single, tmp_path, capsys):
    result = train(tiny({**single, "metric": "none", "logger": ["csv"]}), tmp_path / "run")
    losses = heldout(tmp_path / "run")
    assert len(losses) == 2
    assert result.value == pytest.approx(min(losses), rel=1e-6)
    assert result.name == "heldout/loss/ema"
    assert (tmp_path / "run" / "samples" / "step_0000006.png").is_file()
    assert (tmp_path / "run" / "real_and_generated.png").is_file()
    assert "floor" not in capsys.readouterr().out


def test_the_best_checkpoint_and_the_result_follow_the_held_out_loss(tiny, tmp_path, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, math.nan])
    monkeypatch.setattr(Evaluation, "_heldout", lambda *_: next(losses))
    result = train(tiny({"metric": "none", "trainer.max_steps": 12}), tmp_path)
    assert result.value == 1
    content = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["global_step"] == 6


def test_the_error_of_too_few_examples_names_it(tiny, single, tmp_path):
    with pytest.raises(dfw.ConfigError, match=r"1 for training and 1 held out; .*metric=none"):
        build_experiment(tiny(single), tmp_path)


def test_evaluation_draws_the_samples(tiny, single, tmp_path):
    run, folder = tmp_path / "run", tmp_path / "evaluation"
    folder.mkdir()
    train(tiny({**single, "metric": "none"}), run)
    arguments = [f"checkpoint={run}/checkpoints/last.ckpt", "metric=none", "metric.num_samples=4", "sampler.steps=2"]
    (config,) = check_command_line("evaluate", [*arguments, "device=cpu"])
    assert math.isnan(evaluate(config, folder).value)
    assert json.loads((folder / "evaluation.json").read_text())["num_samples"] == 4
    assert (folder / "samples.png").is_file()
