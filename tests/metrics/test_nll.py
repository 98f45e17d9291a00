"""metric=nll on held-out images: its parts, its chain, and what it does not depend on."""

from __future__ import annotations

import json
import math

import pytest
import torch
from PIL import Image

import diffusion_fw as dfw
from diffusion_fw import likelihood
from diffusion_fw.app.evaluate import evaluate
from diffusion_fw.app.train import train
from diffusion_fw.composition.own import DRAWING, with_training
from diffusion_fw.composition.parts import build_data
from diffusion_fw.config.application import check_command_line
from diffusion_fw.data.dataset import to_model
from diffusion_fw.guidance.operators import Mask
from diffusion_fw.likelihood.bound import VariationalBound, discretised_log_likelihood
from diffusion_fw.metrics.metric import Subject
from diffusion_fw.metrics.nll import warn_coarse
from diffusion_fw.process.transition import posterior
from diffusion_fw.registry import ConfigError


@pytest.fixture(scope="module")
def data():
    return dfw.build("data", "digits")


@pytest.fixture
def measure(data, tmp_path):
    """measure(denoiser, steps=..., ...) -> the measurement of a denoiser on the first digits."""

    def run(denoiser, variance="small", batch_size=64, **settings):
        grid = dfw.build("grid", "uniform")
        metric = dfw.build(
            "metric", "nll", test=data.test, grid=grid, **{"num_images": 8, "flow_images": 0, **settings}
        )
        subject = Subject(
            denoiser=denoiser,
            variance=dfw.build("variance", variance),
            data=data,
            samples=lambda: iter(()),
            num_classes=0,
            weights="ema",
            device=torch.device("cpu"),
            seed=0,
            batch_size=batch_size,
            folder=tmp_path,
        )
        return metric.evaluate(subject)

    return run


def test_a_model_that_knows_the_images_pays_for_the_decoder_alone(data, measure):
    """x_0 = E[x_0 | x_t] exactly: every KL is 0, L_0 the mass of a normal of the second row's variance around x."""
    schedule = dfw.build("schedule", "cosine")
    x = to_model(data.test.__getitems__(range(8))[0])

    class Knows:
        def __init__(self):
            self.schedule = schedule

        def __call__(self, x_t, level, cond=None):
            return dfw.oracles.Empirical(x[:1], schedule)(x_t, level, cond)

    found = measure(Knows(), steps=50, num_images=1)
    assert found.record["steps_bits_per_dim"] == pytest.approx(0, abs=1e-9)
    levels = schedule(dfw.build("grid", "uniform")(50, schedule))
    variance = posterior(levels[-3], levels[-2]).var_small
    exact = -discretised_log_likelihood(x[:1], x[:1], variance.log().float().expand_as(x[:1])).mean() / math.log(2)
    assert found.record["decoder_bits_per_dim"] == pytest.approx(exact.item(), rel=1e-5)
    assert found.value == pytest.approx(
        sum(found.record[f"{part}_bits_per_dim"] for part in ("prior", "steps", "decoder"))
    )


def test_a_guidance_draws_from_the_seed_and_the_flow_refuses_it(data, measure):
    x = to_model(data.test.__getitems__(range(2))[0])
    schedule = dfw.build("schedule", "cosine")
    guided = dfw.build(
        "guidance",
        "imputation",
        denoiser=dfw.oracles.Empirical(x, schedule),
        operator=Mask(torch.arange(64).view(1, 8, 8) < 32),
        measurement=x[0],
    )
    state = torch.get_rng_state()
    found = [measure(guided, steps=3, num_images=2, batch_size=size).value for size in (2, 1)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ConfigError, match=r"metric\.flow_images=1: .*guidance=imputation"):
        measure(guided, steps=3, num_images=2, flow_images=1)


def test_the_flow_holds_one_batch_of_images_on_the_device(data, measure, monkeypatch):
    """The dequantised images stay on the host until their batch comes."""
    moved = []
    dequantise = likelihood.dequantise

    class Host(torch.Tensor):
        def to(self, *args, **kwargs):
            if args and isinstance(args[0], torch.device):
                moved.append(len(self))
            return super().to(*args, **kwargs)

    monkeypatch.setattr(likelihood, "dequantise", lambda *given: dequantise(*given).as_subclass(Host))
    monkeypatch.setattr(likelihood, "log_prob", lambda denoiser, x, **options: torch.zeros(len(x)))
    denoiser = dfw.oracles.Gaussian(torch.zeros(1, 8, 8), 0.5).denoiser(dfw.build("schedule", "cosine"))
    measure(denoiser, steps=2, num_images=5, flow_images=None, batch_size=2)
    assert moved == [2, 2, 1]


def test_neither_the_batch_size_nor_the_other_images_change_an_images_bits(measure):
    denoiser = dfw.oracles.Gaussian(torch.zeros(1, 8, 8), 0.5).denoiser(dfw.build("schedule", "linear"))
    terms = [measure(denoiser, steps=5, batch_size=size).record["terms"] for size in (8, 3)]
    assert terms[0] == pytest.approx(terms[1], rel=1e-6)


def test_every_row_of_a_table_is_the_chain_unless_steps_says_otherwise(measure):
    denoiser = dfw.oracles.Gaussian(torch.zeros(1, 8, 8), 0.5).denoiser(dfw.build("schedule", "cosine", num_steps=40))
    assert measure(denoiser).record["steps"] == 40
    found = measure(denoiser, steps=10)
    assert found.name == "nll@10/ema"
    assert len(found.record["terms"]) == len(found.record["t"]) == 10
    with Image.open(found.pictures[0]) as picture:
        picture.load()


def test_the_flows_likelihood_of_gaussian_data_is_its_density(data, measure):
    """Bits per dimension of the dequantised pixels by the exact log-density of N(0, std^2), to the estimate's noise."""
    schedule, gaussian = dfw.build("schedule", "flow"), dfw.oracles.Gaussian(torch.zeros(1, 8, 8), 0.8)
    found = measure(gaussian.denoiser(schedule), steps=5, flow_images=8).record["flow_bits_per_dim"]
    x = to_model(data.test.__getitems__(range(8))[0])
    exact = (-gaussian.log_prob(x) / 64 / math.log(2) + 7).mean().item()
    assert found == pytest.approx(exact, abs=0.02)


def test_the_flow_is_that_of_the_unclipped_model_unless_asked_for(measure):
    """Clipping a Gaussian's x_0 changes its flow; the model's own guidances stay, and the record says what was done."""
    gaussian = dfw.oracles.Gaussian(torch.zeros(1, 8, 8), 0.8).denoiser(dfw.build("schedule", "flow"))
    target = dfw.build("schedule", "vp")
    rescheduled = dfw.build("guidance", "rescheduled", denoiser=gaussian, target=target)
    clipped = dfw.build("guidance", "clip", denoiser=rescheduled)
    thresholded = dfw.build("guidance", "dynamic_threshold", denoiser=clipped)
    options = {"steps": 2, "flow_images": 2, "num_images": 2}
    plain, own, asked = (
        measure(denoiser, **options, **extra).record
        for denoiser, extra in ((rescheduled, {}), (thresholded, {}), (clipped, {"flow_clip": True}))
    )
    assert own["flow_bits_per_dim"] == plain["flow_bits_per_dim"] != asked["flow_bits_per_dim"]
    assert [found["flow_unclipped"] for found in (plain, own, asked)] == [False, True, False]


def test_a_guidance_around_a_clip_is_kept_without_it():
    from diffusion_fw.guidance.guidance import without_bounds

    model = dfw.oracles.Gaussian(torch.zeros(1), 0.8).denoiser(dfw.build("schedule", "flow"))
    target = dfw.build("schedule", "vp")
    clipped = dfw.build("guidance", "clip", denoiser=model)
    kept = without_bounds(dfw.build("guidance", "rescheduled", denoiser=clipped, target=target))
    assert kept.denoiser is model
    assert kept.schedule == target
    assert without_bounds(kept) is kept
    assert without_bounds(model) is model


def test_all_images_repeats_and_tolerance_of_the_flow(data, measure):
    """Repeats draw new pixels and probes: their mean is closer to the density, and the tolerance changes the result."""
    denoiser = dfw.oracles.Gaussian(torch.zeros(1, 8, 8), 0.8).denoiser(dfw.build("schedule", "flow"))
    options = {"steps": 2, "num_images": 3}
    one, three = (measure(denoiser, flow_images=None, flow_repeats=n, **options).record for n in (1, 3))
    assert one["flow_images"] == three["flow_images"] == 3
    assert one["flow_bits_per_dim"] != three["flow_bits_per_dim"]
    x = to_model(data.test.__getitems__(range(3))[0])
    exact = (-dfw.oracles.Gaussian(torch.zeros(1, 8, 8), 0.8).log_prob(x) / 64 / math.log(2) + 7).mean().item()
    assert three["flow_bits_per_dim"] == pytest.approx(exact, abs=0.02)
    loose = measure(denoiser, flow_images=None, flow_tolerance=0.1, **options).record
    assert loose["flow_bits_per_dim"] != one["flow_bits_per_dim"]


def test_rate_and_distortion_of_gaussian_data_are_those_of_its_posterior_mean(data, measure):
    """E|x_0 - g x_t|^2 = (1 - g alpha)^2 x_0^2 + g^2 sigma^2 for g = alpha s^2 / (alpha^2 s^2 + sigma^2), and the KL of
    two normals of one variance is c_x0^2 of that over twice the variance (Ho et al. 2020, sections 3.2 and 4.3)."""
    schedule, std = dfw.build("schedule", "linear"), 0.6
    found = measure(dfw.oracles.Gaussian(torch.zeros(1, 8, 8), std).denoiser(schedule), steps=10, num_images=200)
    x = to_model(data.test.__getitems__(range(200))[0]).double()
    levels = schedule(dfw.build("grid", "uniform")(10, schedule))
    starts, ends = levels.steps()
    gain = starts.alpha * std**2 / (starts.alpha.square() * std**2 + starts.sigma.square())
    error = (1 - gain * starts.alpha).square() * x.square().mean() + (gain * starts.sigma).square()
    step = posterior(starts, ends)
    terms = (step.c_x0.square() * error / (2 * step.var_small) / math.log(2))[:-1]
    prior = starts.log_snr[0].exp() * x.square().mean() / (2 * math.log(2))
    rate = torch.cat([prior[None], terms]).cumsum(0)
    assert found.record["rate"] == pytest.approx(rate.tolist(), rel=0.02)
    assert found.record["distortion"] == pytest.approx((127.5 * error.sqrt()).tolist(), rel=0.02)
    assert found.value == pytest.approx(found.record["rate"][-1] + found.record["decoder_bits_per_dim"])
    assert [path.name for path in found.pictures] == ["bound.png", "rate_distortion.png"]


@pytest.mark.parametrize(
    ("schedule", "grid", "steps", "says"),
    [
        ("edm", "uniform", 50, "grid=karras"),
        ("edm", "karras", 50, None),
        ("linear", "uniform", 5, "grid=respaced"),
        ("linear", "respaced", 5, None),
    ],
)
def test_a_chain_that_jumps_from_much_noise_to_data_is_warned_of(schedule, grid, steps, says, caplog):
    """EDM's uniform times put sigma 1.6 -> 0 into one step of 50."""
    path = dfw.build("schedule", schedule)
    bound = VariationalBound(path(dfw.build("grid", grid)(steps, path)), dfw.build("variance", "small"))
    warn_coarse(bound, path)
    assert (says in caplog.text) if says else not caplog.text


def test_a_chain_with_a_step_of_length_0_is_refused(data):
    metric = dfw.build("metric", "nll", test=data.test, grid=dfw.build("grid", "quadratic", repeat=True))
    with pytest.raises(ConfigError, match=r"grid\.repeat=false"):
        metric.times(dfw.build("schedule", "linear"))


def test_points_have_no_bits(measure, tmp_path):
    data = dfw.build("data", "moons")
    metric = dfw.build("metric", "nll", test=data.test, grid=dfw.build("grid", "uniform"))
    denoiser = dfw.oracles.Gaussian(torch.zeros(2), 0.5).denoiser(dfw.build("schedule", "vp"))
    subject = Subject(denoiser, dfw.build("variance", "small"), data, lambda: iter(()), 0, "ema", "cpu", 0, 8, tmp_path)
    with pytest.raises(ConfigError, match=r"metric=nll.*metric=fid"):
        metric.evaluate(subject)


# As its user runs it.


@pytest.fixture(scope="module")
def improved(tiny, tmp_path_factory):
    """A run of improved DDPM in small: (folder, program(name, *arguments) -> its checked config)."""
    folder = tmp_path_factory.mktemp("iddpm")
    changes = {"variance": "learned_range", "objective": "hybrid", "sampler": "ddpm", "sampler.steps": 2}
    train(tiny(changes), folder)

    def program(name, *arguments):
        checkpoint = f"checkpoint={folder}/checkpoints/last.ckpt"
        return check_command_line(name, [checkpoint, "device=cpu", *arguments])[0]

    return program


NLL = ("metric=nll", "metric.steps=5", "metric.num_images=4", "metric.flow_images=2", "grid=respaced")


def test_evaluate_states_the_bound_its_parts_and_the_flow(improved, tmp_path):
    value = evaluate(improved("evaluate", *NLL), tmp_path).value
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert result["metric"] == "nll@5/ema"
    assert result["bits_per_dim"] == value > 0
    assert result["variance"] == {"name": "learned_range"}
    assert math.isfinite(result["flow_bits_per_dim"])
    assert (tmp_path / "bound.png").is_file()


def test_a_model_of_learned_variance_can_be_asked_for_a_fixed_one(improved, tmp_path):
    """And a bound depends on it: the network's variance is at its start halfway between the two."""
    found = {}
    for name in ("learned_range", "small", "large"):
        (tmp_path / name).mkdir()
        found[name] = evaluate(improved("evaluate", *NLL, f"variance={name}"), tmp_path / name).value
    assert len(set(found.values())) == 3


def test_a_sampler_that_leaves_a_learned_variance_unused_says_so(improved, tmp_path, caplog):
    for sampler, said in (("ddpm", False), ("ddim", True)):
        caplog.clear()
        (tmp_path / sampler).mkdir()
        evaluate(
            improved("evaluate", f"sampler={sampler}", "sampler.steps=2", "metric.num_samples=4", "features=pixels"),
            tmp_path / sampler,
        )
        assert ("ignores the model's learned variance" in caplog.text) is said


def test_a_fixed_model_has_no_learned_variance(tiny, tmp_path):
    train(tiny({"trainer.max_steps": 1}), tmp_path)
    checkpoint = f"checkpoint={tmp_path}/checkpoints/last.ckpt"
    config = check_command_line("evaluate", [checkpoint, "device=cpu", *NLL, "variance=learned_range"])[0]
    with pytest.raises(ConfigError, match=r"this one was trained without.*variance=learned_range"):
        evaluate(config, tmp_path)


def test_the_variance_is_the_models_own_unless_one_is_chosen():
    own, learned, large = {"name": "own"}, {"name": "learned_range"}, {"name": "large"}
    for chosen, trained, used in ((own, {"variance": learned}, learned), (large, {"variance": learned}, large)):
        assert with_training({"variance": chosen}, trained, DRAWING)["variance"] == used
    assert with_training({"variance": own}, {}, DRAWING)["variance"] == {"name": "small"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"variance": "learned_range"}, r"objective=simple.*variance=learned_range.*objective=hybrid"),
        ({"objective": "hybrid"}, r"objective=hybrid.*variance=learned_range"),
        ({"metric": "nll"}, r"metric=nll.*metric=fid.*evaluate"),
        ({"variance": "learned", "objective": "vlb", "schedule": "vp"}, r"rows of a table.*schedule=cosine"),
    ],
)
def test_what_does_not_fit_is_refused_when_built(tiny, tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        train(tiny(changes), tmp_path)


def test_a_schedule_and_a_network_that_know_nothing_of_it_learn_the_variance(tiny, tmp_path, monkeypatch):
    """A plugin's table, and the MLP: composed with variance=learned_range, objective=hybrid as they are."""
    from dataclasses import dataclass

    from diffusion_fw import registry
    from diffusion_fw.process.schedule import DiscreteSchedule

    @dataclass(frozen=True)
    class Straight(DiscreteSchedule):
        """log_snr falls linearly from 8 to -8."""

        def log_snrs(self):
            return torch.linspace(8, -8, self.num_steps, dtype=torch.float64)

    monkeypatch.setitem(registry.components._entries, "schedule", dict(registry.entries("schedule")))
    registry.register("schedule", "straight")(Straight)
    changes = {"schedule": "straight", "variance": "learned_range", "objective": "hybrid", "sampler": "ddpm"}
    assert math.isfinite(train(tiny({**changes, "network": "mlp", "sampler.steps": 3}), tmp_path).value)


def test_data_of_the_metric_is_the_held_out_split(improved, tmp_path):
    config = improved("evaluate", *NLL, "metric.num_images=null", "metric.flow_images=0")
    evaluate(config, tmp_path)
    count = len(build_data({"data": {"name": "digits"}}).test)
    assert json.loads((tmp_path / "evaluation.json").read_text())["images"] == count
