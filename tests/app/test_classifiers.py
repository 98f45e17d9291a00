"""Training a classifier of noisy examples, and guiding a model by it, by the programs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.app.explain import explain
from diffusion_fw.app.sample import sample
from diffusion_fw.app.train import train
from diffusion_fw.config.application import ask, check_command_line
from diffusion_fw.registry import ConfigError

CLASSIFIER = {
    "network": "adm_classifier",
    "network.channels": 8,
    "network.channel_mult": [1, 2],
    "network.num_res_blocks": 1,
    "network.attention_resolutions": [],
    "network.num_head_channels": 8,
    "objective": "classifier",
    "metric": "none",
    "callbacks": ["accuracy", "checkpoints"],
    "optimizer.lr": 0.01,
}
RUNS = {
    "classifier": {**CLASSIFIER, "callbacks.accuracy.every": 3},
    "other path": {**CLASSIFIER, "schedule": "linear", "trainer.max_steps": 1},
    "unconditional": {"network.class_conditional": False, "callbacks": ["checkpoints"], "trainer.max_steps": 2},
    "conditional": {"callbacks": ["checkpoints"], "trainer.max_steps": 2},
    "always with labels": {"callbacks": ["checkpoints"], "trainer.max_steps": 1, "label_dropout": 0.0},
    "points": {
        "data": "moons",
        "network": "mlp",
        "network.width": 8,
        "features": "identity",
        "callbacks": ["checkpoints"],
        "trainer.max_steps": 1,
    },
}


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    """checkpoint(name) -> the checkpoint of a run, which is trained at its first use."""
    folder = tmp_path_factory.mktemp("runs")

    def path(name):
        if not (folder / name).exists():
            train(tiny(RUNS[name]), folder / name)
        return folder / name / "checkpoints" / "last.ckpt"

    return path


@pytest.fixture
def drawn(checkpoint, tmp_path):
    """drawn(run, arguments) -> the arrays of its samples."""

    def draw(name, *arguments):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        fixed = ["device=cpu", "num_samples=8", "npz=true", "sampler.steps=4"]
        sample(check_command_line("sample", [f"checkpoint={checkpoint(name)}", *fixed, *arguments])[0], folder)
        return dict(np.load(folder / "samples.npz"))

    return draw


@pytest.fixture
def by_classifier(checkpoint):
    """The arguments that guide by the classifier."""
    return ["guidance=[clip,classifier]", f"guidance.classifier.checkpoint={checkpoint('classifier')}"]


def test_training_logs_the_accuracy_by_noise_level(tiny, tmp_path):
    train(tiny({**CLASSIFIER, "callbacks.accuracy.every": 15, "trainer.max_steps": 30, "logger": ["csv"]}), tmp_path)
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    values = [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
    evaluated = [row for row in values if row["heldout/accuracy"]]
    assert len(evaluated) == 2
    last = evaluated[-1]
    by_level = [float(last[key]) for key in header.split(",") if "accuracy at log-SNR" in key]
    assert float(last["heldout/accuracy"]) == pytest.approx(np.mean(by_level), abs=0.02)
    assert float(last["heldout/accuracy"]) <= float(last["heldout/accuracy among 5"]) <= 1
    assert float(last["heldout/loss"]) < float(evaluated[0]["heldout/loss"])
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_a_classifier_is_loaded_from_its_checkpoint(checkpoint):
    classifier = dfw.load_classifier(checkpoint("classifier"))
    level = classifier.schedule(torch.tensor(0.5, dtype=torch.float64))
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    one_by_one = classifier(x, classifier.schedule(torch.full((3,), 0.5, dtype=torch.float64)))
    assert one_by_one.shape == (3, 10)
    torch.testing.assert_close(classifier(x, level), one_by_one)


def test_a_classifier_gives_labels_to_a_model_that_takes_none(drawn, by_classifier):
    plain, none = drawn("unconditional"), drawn("unconditional", *by_classifier, "guidance.classifier.scale=0")
    assert "labels" not in plain
    guided = drawn("unconditional", *by_classifier, "guidance.classifier.scale=20")
    assert set(guided["labels"].tolist()) <= set(range(10))
    assert len(set(guided["labels"].tolist())) > 1
    np.testing.assert_allclose(none["samples"].astype(int), plain["samples"], atol=1)
    assert np.abs(guided["samples"].astype(int) - plain["samples"]).max() > 1


def test_a_model_of_labels_is_guided_with_and_without_them(drawn, by_classifier):
    plain = drawn("conditional")
    both = drawn("conditional", *by_classifier, "guidance.classifier.conditional=true", "guidance.classifier.scale=0")
    np.testing.assert_allclose(both["samples"].astype(int), plain["samples"], atol=1)
    alone = drawn("conditional", *by_classifier)
    assert (alone["labels"] == plain["labels"]).all()


def test_a_model_that_always_had_labels_must_get_them(drawn, by_classifier):
    with pytest.raises(ConfigError, match=r"label_dropout=0\); .* or set guidance\.classifier\.conditional=true"):
        drawn("always with labels", *by_classifier)
    drawn("always with labels", *by_classifier, "guidance.classifier.conditional=true")


@pytest.mark.parametrize(
    ("run", "classifier", "arguments", "message"),
    [
        ("unconditional", None, [], r"trained with objective=classifier; give guidance\.classifier\.checkpoint="),
        ("unconditional", "conditional", [], r"the classifier: checkpoint=.* holds no classifier, but network=unet"),
        ("unconditional", "other path", [], r"the classifier is on Linear.*the guided model on Cosine"),
        ("points", "classifier", [], r"the classifier: .* of data of shape \(1, 8, 8\), the guided model of \(2,\)"),
        (
            "unconditional",
            "classifier",
            ["guidance.classifier.conditional=true"],
            r"this model takes no labels; set guidance\.classifier\.conditional=false",
        ),
    ],
)
def test_a_classifier_that_does_not_fit_is_refused(drawn, checkpoint, run, classifier, arguments, message):
    given = [f"guidance.classifier.checkpoint={checkpoint(classifier)}"] if classifier else []
    with pytest.raises(ConfigError, match=message):
        drawn(run, "guidance=[classifier]", *given, *arguments)


def test_a_classifier_draws_no_samples(drawn, checkpoint):
    with pytest.raises(ConfigError, match=r"holds a classifier, which draws no samples; .*guidance\.classifier\.ch"):
        drawn("classifier")
    with pytest.raises(ConfigError, match="holds a classifier"):
        dfw.load(checkpoint("classifier"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"objective": "simple"},
            ["network=adm_classifier", "objective=simple", "objective=classifier", "metric=none"],
        ),
        ({"metric": "fid"}, ["metric=fid need", "network=adm_classifier", "metric=none", "accuracy"]),
        ({"callbacks": ["evaluation"]}, ["callbacks=evaluation need", "accuracy"]),
        ({"metric": "fid", "callbacks": ["evaluation"]}, ["metric=fid and callbacks=evaluation need"]),
        ({"variance": "learned_range"}, ["network=adm_classifier does not predict variances"]),
    ],
)
def test_what_needs_samples_is_refused_for_a_classifier(tiny, changes, says):
    with pytest.raises(ConfigError) as caught:
        explain(tiny({**CLASSIFIER, **changes}), ask("train", []))
    for part in says:
        assert caught.match(part)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objective": "classifier"}, ["objective=classifier trains a classifier", "network=unet", "adm_classifier"]),
        ({"callbacks": ["accuracy"]}, ["callbacks=accuracy", "network=unet", "evaluation"]),
        ({"guidance": ["classifier"]}, [r"guidance=classifier: it needs a classifier, which sample\.py"]),
    ],
)
def test_what_needs_a_classifier_is_refused_for_a_denoiser(tiny, changes, says):
    with pytest.raises(ConfigError) as caught:
        explain(tiny(changes), ask("train", []))
    for part in says:
        assert caught.match(part)


def test_explain_states_what_training_a_classifier_costs(tiny, capsys):
    explain(tiny(CLASSIFIER), ask("train", []))
    shown = capsys.readouterr().out
    assert "not measured" not in shown
    assert "unknown" not in shown


def test_the_experiment_composes():
    (config,) = check_command_line("train", ["experiment=adm_classifier"])
    assert config["objective"]["name"] == "classifier"
    assert math.isclose(config["optimizer"]["weight_decay"], 0.05)
