"""A metric written from the public types alone is tracked in training, evaluated, and found out if it is wrong."""

from __future__ import annotations

import csv
import json
import re

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw import registry
from diffusion_fw.app.evaluate import evaluate
from diffusion_fw.app.train import train
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.config.application import check_command_line


class MeanGap(dfw.TrackedMetric):
    """|m - m_r|, the distance of the mean of the samples from that of the held-out examples."""

    label = "distance of the means"

    def __init__(
        self,
        train: dfw.Runtime[dfw.Examples],
        reference: dfw.Runtime[dfw.Examples],
        num_samples: dfw.PositiveInt = 8,
    ):
        self.train, self.num_samples = train, num_samples
        self.mean = self.mean_of(reference, len(reference))
        self.reset()

    def mean_of(self, examples, count):
        return dfw.to_model(examples.__getitems__(range(count))[0]).double().mean(0)

    def name(self, weights):
        return f"mean_gap@{self.num_samples}/{weights}"

    def reset(self):
        self.total, self.count = torch.zeros(()), 0

    def update(self, generated):
        self.total = self.total + dfw.to_model(generated).double().sum(0).cpu()
        self.count += len(generated)

    def compute(self):
        return float((self.total / self.count - self.mean).norm())

    @property
    def floor_samples(self):
        return min(self.num_samples, len(self.train))

    def floor(self):
        return float((self.mean_of(self.train, self.floor_samples) - self.mean).norm())


class Untracked(dfw.Metric):
    """The mean absolute value of samples, for evaluate.py alone."""

    of_samples = True
    num_samples = 8

    def evaluate(self, subject):
        value = torch.cat([dfw.to_model(x) for _, x in subject.samples()]).abs().mean().item()
        return dfw.Measurement(f"size@8/{subject.weights}", value, {"size": value}, {"size": f"{value:.3g}"})


@pytest.fixture
def add(monkeypatch):
    known = dict(registry.entries("metric"))

    def register(component, name="mine"):
        monkeypatch.setitem(registry.components._entries, "metric", dict(known))
        registry.register("metric", name)(component)
        return name

    return register


def program(folder, *arguments):
    checkpoint = f"checkpoint={folder}/checkpoints/last.ckpt"
    return check_command_line("evaluate", [checkpoint, "device=cpu", "sampler.steps=2", *arguments])[0]


def test_a_metric_of_the_public_types_is_tracked_and_evaluated(add, tiny, tmp_path, capsys):
    add(MeanGap)
    result = train(tiny({"metric": "mine", "logger": ["csv"]}), tmp_path)
    assert result.name == "mean_gap@8/ema"
    with (tmp_path / "metrics.csv").open() as file:
        logged = [float(row[result.name]) for row in csv.DictReader(file) if row[result.name]]
    assert len(logged) == 2
    assert result.value == pytest.approx(min(logged), rel=1e-6)
    assert (tmp_path / "distance.png").is_file()

    config = {**program(tmp_path), "metric": {"name": "mine", "num_samples": 8}}
    assert evaluate(config, tmp_path).value == pytest.approx(logged[-1], rel=1e-5)
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["metric"] == "mean_gap@8/ema"
    assert written["distance"] == pytest.approx(logged[-1], rel=1e-5)
    assert "distance of the means" in capsys.readouterr().out


def test_a_metric_for_evaluation_alone_is_evaluated_and_refused_in_training(add, tiny, tmp_path):
    add(Untracked)
    with pytest.raises(dfw.ConfigError, match="metric=mine cannot be tracked during training"):
        build_experiment(tiny({"metric": "mine"}), tmp_path)
    train(tiny({"trainer.max_steps": 1}), tmp_path)
    assert 0 < evaluate({**program(tmp_path), "metric": {"name": "mine"}}, tmp_path).value <= 1


def test_a_metric_of_the_public_types_conforms(add):
    dfw.checking.check("metric", add(MeanGap))


# Metrics that are wrong in one way each.


class OfTheLastBatch(MeanGap):
    def update(self, generated):
        self.reset()
        super().update(generated)


class NeverForgets(MeanGap):
    total, count = 0, 0

    def reset(self):
        pass


class HigherIsBetter(MeanGap):
    def compute(self):
        return -super().compute()

    def floor(self):
        return -super().floor()


class Nameless(MeanGap):
    def name(self, weights):
        return "mean_gap"


class NoFloor(MeanGap):
    def floor(self):
        return float("nan")


class FloorOfItself(MeanGap):
    def floor(self):
        return 0.0


class Blind(MeanGap):
    def update(self, generated):
        super().update(dfw.to_model(generated).nan_to_num())


class Random(MeanGap):
    def compute(self):
        return super().compute() + torch.rand(()).item()


@pytest.mark.parametrize(
    ("component", "reason"),
    [
        (OfTheLastBatch, r"value in three batches, points: found \S+ apart"),
        (NeverForgets, r"value after other samples and a reset, points: found \S+ apart"),
        (HigherIsBetter, r"values of the right and of three times the deviation, \w+: found -"),
        (Nameless, r"names with weights ema, ema and raw, points: found mean_gap"),
        (NoFloor, r"floor, points: found nan, wanted finite"),
        (FloorOfItself, r"floor and value of all training examples, points: found 1e\+00 apart"),
        (Blind, r"value of a sample that is NaN, points: found 0"),
        (Random, r"value in other batches, points: found \S+ apart"),
    ],
)
def test_a_broken_metric_is_found_out(add, component, reason):
    with pytest.raises(dfw.checking.CheckFailed) as failure:
        dfw.checking.check("metric", add(component))
    assert re.search(reason, str(failure.value))


def test_a_metric_without_one_of_the_methods_cannot_be_built(add, tiny, tmp_path):
    class Half(dfw.TrackedMetric):
        def name(self, weights):
            return "half"

    with pytest.raises(TypeError, match="abstract method"):
        build_experiment(tiny({"metric": add(Half)}), tmp_path)
