"""Train, then sample and evaluate from the checkpoint alone."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import diffusion_fw as dfw
from diffusion_fw import registry
from diffusion_fw.app.evaluate import evaluate
from diffusion_fw.app.help import print_help
from diffusion_fw.app.program import only
from diffusion_fw.app.sample import sample
from diffusion_fw.app.train import prepare, train
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.composition.facts import Facts
from diffusion_fw.composition.parts import build_data, build_denoiser
from diffusion_fw.config.application import ask, check_command_line
from diffusion_fw.config.compose import flatten
from diffusion_fw.registry import ConfigError

ROOT = Path(__file__).parents[2]
STEPS = "sampler.steps=2"


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    distance = train(tiny({"logger": ["csv"], "network.class_conditional": True}), folder).value
    return folder, distance


def program(name, trained, *arguments):
    checkpoint = trained[0] / "checkpoints" / "last.ckpt"
    return check_command_line(name, [f"checkpoint={checkpoint}", "device=cpu", STEPS, *arguments])[0]


def images(folder):
    return [np.asarray(Image.open(path)) for path in sorted((folder / "images").iterdir())]


def test_training_leaves_pictures_numbers_and_checkpoints(trained):
    folder, _ = trained
    pictures = [
        "samples.png",
        "real_and_generated.png",
        "loss.png",
        "loss_by_log_snr.png",
        "distance.png",
        "schedule.png",
        "samples/trajectory.png",
        "samples/step_0000003.png",
        "samples/step_0000006.png",
    ]
    for name in pictures:
        with Image.open(folder / name) as picture:
            picture.load()
            assert np.asarray(picture.convert("L")).std() > 1, name
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert yaml.safe_load((folder / "config.yaml").read_text())["network"]["class_conditional"] is True


def test_samples_are_one_picture_each_of_the_data_s_size(trained, tmp_path):
    sample(program("sample", trained, "num_samples=5", "npz=true"), tmp_path)
    drawn = images(tmp_path)
    assert [(item.shape, item.dtype) for item in drawn] == [((8, 8), np.uint8)] * 5
    with Image.open(tmp_path / "grid.png") as grid:
        assert min(grid.size) > 8
    assert np.array_equal(np.load(tmp_path / "samples.npz")["samples"][:, 0], np.stack(drawn))


@pytest.mark.parametrize("sampler", [["sampler=ddim"], ["sampler=ddpm", "sampler.steps=5"]])
def test_the_same_seed_gives_the_same_images_whatever_the_batch(trained, tmp_path, sampler):
    drawn = []
    for size in (3, "auto"):
        (tmp_path / str(size)).mkdir()
        config = program("sample", trained, "num_samples=7", "seed=4", f"batch_size={size}", *sampler)
        sample(config, tmp_path / str(size))
        drawn.append(np.stack(images(tmp_path / str(size))).astype(int))
    assert np.abs(drawn[0] - drawn[1]).max() <= 1
    other = tmp_path / "other"
    other.mkdir()
    sample(program("sample", trained, "num_samples=7", "seed=5", *sampler), other)
    assert np.abs(np.stack(images(other)).astype(int) - drawn[0]).max() > 20


def test_images_of_another_run_are_not_mixed_with_new_ones(trained, tmp_path):
    sample(program("sample", trained, "num_samples=2"), tmp_path)
    with pytest.raises(ConfigError, match="holds the images of another run"):
        sample(program("sample", trained, "num_samples=1"), tmp_path)
    assert len(images(tmp_path)) == 2


def test_each_job_of_a_sweep_warns_of_samples_far_outside_of_the_data(trained, tmp_path):
    checkpoint = trained[0] / "checkpoints" / "last.ckpt"
    words = [f"checkpoint={checkpoint}", "device=cpu", STEPS, "num_samples=2", "seed=0,1", "hydra.sweep.dir=sweep"]
    words += ["guidance=[classifier_free]", "guidance.classifier_free.scale=1000"]
    command = [sys.executable, str(ROOT / "sample.py"), "-m", *words]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    logs = [path.read_text() for path in (tmp_path / "sweep").glob("*/sample.log")]
    assert [log.count("outside the bounds of the data") for log in logs] == [1, 1]


def test_evaluation_finds_the_distance_that_training_found(trained, tmp_path):
    """The same averaged weights, sampler, seed and number of samples, and the features of the training."""
    folder, best = trained
    with (folder / "metrics.csv").open() as file:
        logged = [float(row["fid/pixels@8/ema"]) for row in csv.DictReader(file) if row["fid/pixels@8/ema"]]
    measure = ["metric.num_samples=8", f"metric.cache_dir={tmp_path}"]
    distance = evaluate(program("evaluate", trained, *measure), tmp_path).value
    assert distance == pytest.approx(logged[-1], rel=1e-5)
    assert best == pytest.approx(min(logged), rel=1e-6)
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["metric"] == "fid/pixels@8/ema"
    assert written["distance"] == distance
    assert math.isfinite(written["floor"])
    assert list(written["guidance"]) == ["clip"]


@pytest.mark.parametrize(("chosen", "measured"), [("digits", "digits"), ("auto", "digits"), ("pixels", "pixels")])
def test_evaluation_measures_on_other_features_where_they_are_chosen(trained, tmp_path, chosen, measured):
    measure = [f"features={chosen}", "metric.num_samples=8", f"metric.cache_dir={tmp_path}"]
    evaluate(program("evaluate", trained, *measure), tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["metric"] == f"fid/{measured}@8/ema"


def test_raw_weights_have_a_distance_of_another_name(trained, tmp_path):
    measure = ["features=pixels", "metric.num_samples=8", f"metric.cache_dir={tmp_path}", "raw_weights=true"]
    evaluate(program("evaluate", trained, *measure), tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["metric"] == "fid/pixels@8/raw"


def test_a_sampler_that_cannot_run_on_the_model_is_refused_before_anything_is_drawn(trained, tmp_path):
    config = program("sample", trained, "sampler=euler_maruyama")
    with pytest.raises(ConfigError, match="schedule"):
        sample(config, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_there_is_an_error(trained, tmp_path):
    for device in ("abacus", "cuda:97"):
        with pytest.raises(ConfigError, match=f"device={device}: .*choose auto, cpu"):
            sample(program("sample", trained, f"device={device}"), tmp_path)


def test_points_are_drawn_and_measured_too(tiny, tmp_path):
    points = {"data": "moons", "network": "mlp", "network.width": 8, "features": "identity", "guidance": []}
    assert math.isfinite(train(tiny({**points, "trainer.max_steps": 1}), tmp_path).value)
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    sample(program("sample", (tmp_path, None), "num_samples=4", "npz=true", "guidance=none"), drawn)
    assert np.load(drawn / "samples.npz")["samples"].shape == (4, 2)
    assert {path.name for path in drawn.iterdir()} == {"samples.npz", "grid.png"}


ARGUMENTS = [
    "explain=true",
    "experiment=edm",
    "trainer=ddp_cpu",
    "network.channels=8",
    "sampler.steps=7",
    "batch_size=32",
    "trainer.accumulate_grad_batches=2",
    "trainer.max_steps=100",
]


@pytest.fixture
def explained(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    asked = ask("train", ARGUMENTS)
    assert prepare(asked) == []
    table, _, run = capsys.readouterr().out.partition("the run")
    cells = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in table.splitlines()]
    return asked.configs[0], {row[0]: row[1:] for row in cells if len(row) == 3}, run


def test_explain_gives_every_key_its_value_and_origin(explained):
    config, rows, _ = explained
    for key, value in flatten(config):
        assert rows[key][0] == str(value)[: len(rows[key][0])], key
        assert rows[key][1], key
    origin = {key: row[1] for key, row in rows.items()}
    assert origin["network.channels"] == "command line"
    assert origin["batch_size"] == "command line"
    assert origin["trainer.devices"] == "conf/trainer/ddp_cpu.yaml"
    assert origin["seed"] == "signature of TrainSettings"
    assert origin["data.name"] == "conf/train.yaml"
    assert origin["schedule.name"] == "conf/experiment/edm.yaml"
    assert origin["parameterization.sigma_data"] == "conf/experiment/edm.yaml"
    assert origin["network.channel_mult"] == "signature of UNet"


def test_explain_states_what_the_run_would_cost(explained):
    config, _, run = explained
    denoiser = build_denoiser(config, Facts.of(build_data(config), config))
    count = sum(item.numel() for item in denoiser.parameters())
    assert f"{count:,}" in run
    assert "32 = 2 processes x 2 accumulated x 8" in run
    assert "3,200 = 2.2 epochs" in run
    assert "14" in run.partition("network evaluations per sample")[2]


REFUSED = {
    "objective=hybrid": "objective=hybrid: it trains a learned variance",
    "time_sampler=discrete schedule=vp": "time_sampler=discrete draws rows of a table",
    "batch_size=5000": "batch_size=5000 is larger than the 1438 training examples",
    "metric=nll": "metric=nll cannot be tracked during training",
    "variance=learned_range": "objective=simple does not train variance=learned_range",
    "guidance=classifier_free label_dropout=0": "guidance=classifier_free evaluates the model without a label",
    "guidance=classifier": "guidance=classifier: it needs a classifier, which sample.py and evaluate.py load",
    "sampler=euler_maruyama": "schedule",
    "trainer=ddp_cpu trainer.strategy=ddp_spawn": "cannot be sent to a spawned process",
    "trainer=ddp_cpu batch_size=9": "must be a multiple of 2",
    "trainer=ddp_cpu trainer.devices=8 metric.num_samples=4": "metric.num_samples=4 is less than one",
    "trainer=cpu trainer.precision=16-mixed": "needs a GPU",
    "trainer=cpu trainer.strategy=deepspeed": "ema=exponential does not work with trainer.strategy=deepspeed",
    "init_from=nowhere.ckpt": "nowhere.ckpt: no such file",
}


def test_explain_prints_one_job_and_no_sweep():
    with pytest.raises(ConfigError, match=r"explain=true prints one job, but this sweep has 2"):
        only([{"explain": True}, {"explain": True}])
    assert only([{"explain": True}]) == {"explain": True}


@pytest.mark.parametrize("arguments", REFUSED)
def test_explain_refuses_what_train_refuses_and_says_the_same(arguments, tmp_path, capsys):
    given = [*arguments.split(), "network.channels=4", "network.channel_mult=[1]"]
    asked = ask("train", ["explain=true", *given])
    with pytest.raises(ConfigError, match=re.escape(REFUSED[arguments])) as refused:
        prepare(asked)
    (config,) = asked.configs
    with pytest.raises(ConfigError) as failed:
        train(config, tmp_path)
    assert str(refused.value) == str(failed.value)
    assert capsys.readouterr().out == ""


def test_explain_says_what_a_start_from_other_weights_would_copy(trained, capsys):
    checkpoint = trained[0] / "checkpoints" / "last.ckpt"
    given = ["explain=true", f"init_from={checkpoint}", "network.channels=4", "network.channel_mult=[1]"]
    assert prepare(ask("train", given)) == []
    assert re.search(r"init_from=.*: (\d+) of \1 tensors copied", capsys.readouterr().out)


def test_explain_says_which_values_a_resumed_run_keeps(trained, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    given = ["explain=true", f"resume={trained[0]}", "trainer.max_steps=9"]
    assert prepare(ask("train", given)) == []
    lines = capsys.readouterr().out.splitlines()
    origin = {line.split()[1]: line for line in lines if line.startswith("│ ") and "." in line.split()[1]}
    assert f"resume={trained[0]}" in origin["network.channels"]
    assert "command line" in origin["trainer.max_steps"]


@pytest.mark.parametrize(
    "changes",
    [{group: "edm", f"{group}.sigma_data": "auto"} for group in ("weighting", "parameterization")],
    ids=["weighting", "parameterization"],
)
def test_auto_is_measured_for_any_component_that_needs_it(tiny, changes):
    """The standard deviation of the digits' own training pixels, x = p / 127.5 - 1."""
    config = tiny(changes)
    data = build_data(config)
    values, _ = data.train.__getitems__(range(len(data.train)))
    facts = Facts.of(data, config)
    assert facts.data_std == pytest.approx(float((values.double() / 127.5 - 1).std()), rel=1e-6)
    assert facts.data_diameter is None
    assert Facts.of(data, tiny()).data_std is None


def test_training_with_a_weight_measured_from_the_data_weighs_by_it(tiny, tmp_path):
    experiment = build_experiment(tiny({"weighting": "edm", "weighting.sigma_data": "auto"}), tmp_path)
    std = experiment.module.record["facts"]["data_std"]
    level = experiment.denoiser.schedule(torch.tensor([0.5], dtype=torch.float64))
    weight = experiment.module.objective.weighting(level)
    assert weight.item() == pytest.approx(level.log_snr.exp().item() + 1 / std**2)


def test_a_command_line_can_choose_every_component(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    print_help("train", [])
    assert "(Python only)" not in capsys.readouterr().out


def test_help_lists_what_a_component_can_ask_for(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    print_help("train", ["network"])
    shown = capsys.readouterr().out
    for name, description in registry.GROUPS["network"].runtime.items():
        assert re.search(rf"{name}\s+│ {re.escape(description)}", shown)
    print_help("train", ["network=mlp"])
    shown = capsys.readouterr().out
    assert "num_classes" in shown
    assert "data_std" not in shown
    assert "network.width" in shown


def test_a_checkpoint_with_former_names_is_loaded_with_a_warning(trained, tmp_path, scratch_registry):
    """The checkpoint of a version in which schedule=cosine was called squared, and its num_steps rows."""
    content = torch.load(trained[0] / "checkpoints" / "last.ckpt", weights_only=True)
    section = content["diffusion_fw"]["config"]["schedule"]
    section.update(name="squared", rows=section.pop("num_steps"))
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(ConfigError, match="schedule=squared, which is not registered here"):
        dfw.load(tmp_path / "old.ckpt")
    known = scratch_registry["schedule"]
    known["cosine"] = dataclasses.replace(known["cosine"], formerly=("squared",), renamed={"rows": "num_steps"})
    with pytest.warns(FutureWarning) as given:
        loaded = dfw.load(tmp_path / "old.ckpt")
    messages = " ".join(str(item.message) for item in given)
    assert "schedule=squared is now called schedule=cosine" in messages
    assert "schedule.rows is now called schedule.num_steps" in messages
    assert loaded.schedule == dfw.load(trained[0] / "checkpoints" / "last.ckpt").schedule


def test_guidance_without_labels_needs_a_model_that_has_gone_without(tiny, tmp_path):
    changes = {"label_dropout": 0.0, "guidance": ["classifier_free"], "trainer.max_steps": 1}
    with pytest.raises(ConfigError, match=r"guidance=classifier_free.*label_dropout"):
        train(tiny(changes), tmp_path)
