"""metric=heldout_loss: its times, its noise, what it depends on and what not."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diffusion_fw as dfw
from diffusion_fw.app.evaluate import evaluate
from diffusion_fw.config.application import check_command_line
from diffusion_fw.data.dataset import InMemory, evenly_spaced
from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.metrics.heldout import NOISE, TIMES, HeldoutLoss
from diffusion_fw.metrics.metric import Measurement, Subject, Training
from diffusion_fw.noise import SampleNoise, seeds

COUNT = 200


class Zero(nn.Module):
    """A network that predicts 0."""

    def forward(self, x: Tensor, label: Tensor, cond: Any = None) -> Tensor:
        return torch.zeros_like(x)


def training(objective: str = "simple", **settings: Any) -> Training:
    schedule = dfw.build("schedule", "vp")
    network = NetworkDenoiser(Zero(), schedule, dfw.build("parameterization", "epsilon"), (-1.0, 1.0))
    built = dfw.build("objective", objective, weighting=dfw.build("weighting", "native"), **settings)
    return Training(network, built, dfw.build("time_sampler", "uniform"), {"objective": objective})


def subject(model: Training, folder: Path, **changes: Any) -> Subject:
    whole = Subject(
        denoiser=model.network,
        variance=dfw.build("variance", "small"),
        data=dfw.build("data", "moons"),
        samples=lambda: iter(()),
        num_classes=0,
        weights="ema",
        device=torch.device("cpu"),
        seed=0,
        batch_size=64,
        folder=folder,
        training=lambda: model,
    )
    return replace(whole, **changes)


def measure(model: Training, folder: Path, num_images: int = 1000, **changes: Any) -> Measurement:
    examples = InMemory(torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(1)))
    return HeldoutLoss(examples, num_images).evaluate(subject(model, folder, **changes))


def test_of_a_network_that_predicts_0_it_is_the_mean_square_of_the_noise(tmp_path: Path) -> None:
    found = measure(training(), tmp_path)
    noise = SampleNoise(seeds(NOISE, count=1)[0], range(COUNT))
    squares = np.stack([noise(torch.zeros(COUNT, 3)).double().numpy() ** 2 for _ in range(TIMES)]).mean(-1)
    assert found.value == pytest.approx(squares.mean(), rel=1e-6)
    assert found.record["losses"] == pytest.approx(squares.mean(1), rel=1e-6)
    assert found.record["standard_error"] == pytest.approx(squares.mean(0).std(ddof=1) / COUNT**0.5, rel=1e-6)
    assert found.record["standard_errors"] == pytest.approx(squares.std(1, ddof=1) / COUNT**0.5, rel=1e-6)
    assert abs(found.value - 1) < 4 * found.record["standard_error"]


def test_it_depends_on_neither_seed_nor_batch_size_nor_guidance(tmp_path: Path) -> None:
    first = measure(training(), tmp_path)
    wrapped = dfw.build("guidance", "clip", denoiser=training().network, data_range=(-0.1, 0.1))
    for changes in ({"seed": 5}, {"batch_size": 7}, {"denoiser": wrapped}):
        again = measure(training(), tmp_path, **changes)
        assert again.value == pytest.approx(first.value, rel=1e-12)


def test_the_first_noise_of_an_example_is_that_of_its_place(tmp_path: Path) -> None:
    """Fewer examples are some of all, with the same noise."""
    few = measure(training(), tmp_path, num_images=9)
    places = evenly_spaced(COUNT, 9)
    noise = SampleNoise(seeds(NOISE, count=1)[0], range(COUNT))
    kept = torch.stack([noise(torch.zeros(COUNT, 3))[places] for _ in range(TIMES)])
    assert few.record["images"] == 9
    assert few.value == pytest.approx(float(kept.double().square().mean()), rel=1e-6)


def quantile_times(name: str, schedule: Any, **settings: Any) -> list[float]:
    times = dfw.build("time_sampler", name, **settings).quantiles(TIMES, schedule)
    assert times.dtype == torch.float64
    return times.tolist()


def test_the_times_are_quantiles_of_those_of_training() -> None:
    table, vp, edm = dfw.build("schedule", "linear"), dfw.build("schedule", "vp"), dfw.build("schedule", "edm")
    rows = [math.floor((i + 0.5) / 8 * 1000) + 1 for i in range(8)]
    for name in ("discrete", "loss_aware", "uniform"):
        assert quantile_times(name, table) == pytest.approx([row / 1000 for row in rows])
    uniform = [vp.t_min + (1 - vp.t_min) * (i + 0.5) / 8 for i in range(8)]
    assert quantile_times("uniform", vp) == pytest.approx(uniform)
    normal = torch.distributions.Normal(-1.2, 1.2).icdf((torch.arange(8).double() + 0.5) / 8)
    sampler = dfw.build("time_sampler", "log_normal", mean=-1.2, std=1.2)
    torch.testing.assert_close(-edm(sampler.quantiles(8, edm)).log_snr / 2, normal, rtol=1e-5, atol=1e-5)


def test_the_mean_over_the_times_is_near_the_expected_loss_of_training() -> None:
    """The midpoint rule on a smooth loss."""
    schedule, sampler = dfw.build("schedule", "vp"), dfw.build("time_sampler", "log_normal", mean=-1.2, std=1.2)

    def loss(times: Tensor) -> float:
        return float(schedule(times).sigma.square().mean())

    assert loss(sampler.quantiles(8, schedule)) == pytest.approx(loss(sampler.quantiles(10_000, schedule)), rel=0.02)


def test_what_an_objective_learns_itself_is_left_out(tmp_path: Path) -> None:
    plain = measure(training(), tmp_path)
    for normalized in (False, True):
        learned = measure(training("uncertainty", normalized=normalized), tmp_path)
        assert learned.value == plain.value


def test_the_name_states_what_the_loss_depends_on(tmp_path: Path) -> None:
    model = training()
    names = [
        measure(model, tmp_path).name,
        measure(replace(model, sections={"objective": "other"}), tmp_path).name,
        measure(model, tmp_path, num_images=10).name,
        measure(model, tmp_path, weights="raw").name,
    ]
    assert len(set(names)) == 4
    assert names[0] == measure(model, tmp_path).name
    assert names[2].startswith("heldout_loss/")
    assert names[2].endswith("@10/ema")


def test_a_model_without_its_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(dfw.ConfigError, match="needs the objective of the training"):
        measure(training(), tmp_path, training=None)


@pytest.fixture(scope="module")
def checkpoint(untrained: Any) -> Any:
    return untrained("network.class_conditional=true", "network.channels=4", "network.channel_mult=[1]")


def evaluated(checkpoint: Any, folder: Path, *words: str) -> dict[str, Any]:
    folder.mkdir()
    given = [f"checkpoint={checkpoint}", "metric=heldout_loss", "device=cpu", "metric.num_images=20", *words]
    evaluate(check_command_line("evaluate", given)[0], folder)
    return json.loads((folder / "evaluation.json").read_text())


def test_the_program_measures_a_checkpoint(checkpoint: Any, tmp_path: Path) -> None:
    first = evaluated(checkpoint, tmp_path / "a")
    again = evaluated(checkpoint, tmp_path / "b", "seed=3", "batch_size=7", "guidance=[none]")
    assert first["metric"] == again["metric"]
    assert first["heldout_loss"] == pytest.approx(again["heldout_loss"], rel=1e-5)
    assert first["images"] == 20
    assert len(first["losses"]) == len(first["times"]) == len(first["log_snr"]) == TIMES
    assert set(first["trained_with"]) >= {"objective", "weighting", "parameterization", "schedule", "time_sampler"}
    assert math.isfinite(first["standard_error"])


def test_a_checkpoint_without_an_objective_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["diffusion_fw"]["config"]["objective"]
    torch.save(content, tmp_path / "imported.ckpt")
    with pytest.raises(dfw.ConfigError, match="does not say with what objective it was trained"):
        evaluated(tmp_path / "imported.ckpt", tmp_path / "a")
