"""The modes of sample.py on data whose flow is known in closed form."""

from __future__ import annotations

import dataclasses
import math
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion_fw as dfw
from diffusion_fw.data.dataset import InMemory
from diffusion_fw.data.latents import Space
from diffusion_fw.guidance.operators import Mask
from diffusion_fw.metrics import neighbours as search
from diffusion_fw.modes import neighbours
from diffusion_fw.modes.encode import Encode
from diffusion_fw.modes.interpolate import Interpolate, InterpolateNoised, slerp
from diffusion_fw.modes.mode import Model, from_time, pairs_of
from diffusion_fw.modes.neighbours import Neighbours
from diffusion_fw.modes.reconstruct import Reconstruct
from diffusion_fw.modes.samples import Samples
from diffusion_fw.modes.temperature import Temperature
from diffusion_fw.modes.trajectory import Trajectory
from diffusion_fw.pictures.view import view_for
from diffusion_fw.registry import ConfigError

STD = 0.5
RING = dfw.oracles.GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), torch.tensor([0.2, 0.3]))
NORMAL = dfw.oracles.Gaussian(torch.zeros(2), STD)


class Points(dfw.Data):
    """Draws from an oracle, the labels their halves of the plane."""

    default_features = "identity"
    value_range = None

    def __init__(self, oracle):
        self.distribution = oracle

    @property
    def shape(self):
        return (2,)

    def load(self, split):
        values = self.distribution.sample(400, torch.Generator().manual_seed(int(split == "test"))).float()
        return InMemory(values, (values[:, 0] > 0).long())


@pytest.fixture
def model(tmp_path):
    """model(oracle, sampler, ...) -> what a mode works with."""

    def make(oracle=RING, sampler="ddim", steps=20, num_samples=16, class_names=(), chosen=(), **parameters):
        data = Points(oracle)
        return Model(
            denoiser=oracle.denoiser(dfw.build("schedule", "vp")),
            sampler=dfw.build("sampler", sampler, steps=steps, **parameters),
            shape=(2,),
            space=Space(dfw.build("codec", "none"), (2,), pixels=False, bounds=(-1.0, 1.0)),
            class_names=class_names,
            chosen=chosen,
            class_of=lambda indices: torch.tensor([index % 2 for index in indices]) if class_names else None,
            load_data=lambda: data,
            load_features=lambda: dfw.build("features", "identity", shape=(2,)),
            view=view_for((2,), (-1.0, 1.0)),
            num_samples=num_samples,
            batch_size=5,
            seed=3,
            device=torch.device("cpu"),
            folder=tmp_path,
        )

    return make


def drawn(path):
    return np.asarray(Image.open(path).convert("L")).std() > 1


def test_latents_are_those_of_the_exact_flow_and_decode_to_the_examples(model):
    work = model(NORMAL, sampler="ode", num_samples=64)
    outcome = Encode()(work)
    schedule = work.denoiser.schedule
    first, last = schedule(torch.tensor([0.0, 1.0], dtype=torch.float64))
    x0, latents = outcome.arrays["examples"], outcome.arrays["latents"]
    torch.testing.assert_close(latents, NORMAL.flow(x0, first, last), atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(outcome.arrays["reconstructions"], x0, atol=1e-3, rtol=1e-3)
    assert float(latents.std()) == pytest.approx(1.0, abs=0.2)
    assert drawn(outcome.pictures[0])


def test_the_error_of_a_reconstruction_falls_with_the_order_of_the_sampler(model):
    outcome = Reconstruct(steps=(20, 40, 80))(model())
    errors = outcome.arrays["errors"].mean(1)
    assert outcome.arrays["errors"].shape == (3, 16)
    # Of order 1 and squared: half the step has a quarter of the error.
    ratios = errors[1:] / errors[:-1]
    assert bool(((ratios > 0.15) & (ratios < 0.4)).all()), ratios
    assert float(outcome.rows["error in 20 steps"]) == pytest.approx(float(errors[0]), rel=1e-2)


def test_a_reconstruction_names_the_number_of_steps_that_cannot_be_taken(model):
    with pytest.raises(ConfigError, match=r"mode\.steps=5: .*DDPM cannot encode"):
        Reconstruct(steps=(5,))(model(sampler="ddpm"))


def test_the_great_circle_passes_through_both_ends_and_keeps_length_and_angle():
    a, b = torch.randn(2, 7, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    weights = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    between = slerp(a, b, weights)
    assert between.shape == (7, 3, 3, 4, 4)
    torch.testing.assert_close(between[:, 0], a)
    torch.testing.assert_close(between[:, -1], b)
    torch.testing.assert_close(between.flatten(2).norm(dim=2)[:, 1], a.flatten(1).norm(dim=1))

    def angle(x, y):
        return torch.cosine_similarity(x.flatten(1), y.flatten(1)).arccos()

    torch.testing.assert_close(angle(a, between[:, 1]), 0.25 * angle(a, b))


def test_parallel_latents_are_interpolated_linearly():
    a = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(slerp(a, 3 * a, torch.tensor([0.5]))[:, 0], 2 * a)


def test_an_interpolation_between_examples_ends_at_them(model):
    work = model(sampler="ode", num_samples=6)
    outcome = Interpolate(count=5, ends="data")(work)
    x0, _ = work.held_out(paired=True)
    assert outcome.arrays["samples"].shape == (3, 5, 2)
    torch.testing.assert_close(outcome.arrays["samples"][:, 0], x0[0::2], atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(outcome.arrays["samples"][:, -1], x0[1::2], atol=2e-3, rtol=1e-3)


def test_an_interpolation_between_draws_ends_at_their_samples(model):
    work = model(num_samples=6)
    samples = Samples()(work).arrays["samples"]
    outcome = Interpolate(count=3)(work)
    torch.testing.assert_close(outcome.arrays["samples"][:, 0], samples[0::2])
    torch.testing.assert_close(outcome.arrays["samples"][:, -1], samples[1::2])


def test_one_sample_makes_no_pair(model):
    with pytest.raises(ConfigError, match="num_samples=1: an interpolation takes pairs"):
        Interpolate()(model(num_samples=1))


def test_the_classes_of_a_pair_are_one(model):
    assert pairs_of([5, 6, 7, 8, 9], [0, 1, 1, 0, 1]) == [6, 7, 5, 8]
    _, classes = model(class_names=("left", "right")).held_out(paired=True)
    assert bool((classes[0::2] == classes[1::2]).all())
    assert len(classes.unique()) == 2


def test_chosen_classes_choose_the_held_out_examples(model):
    x0, classes = model(class_names=("left", "right"), chosen=(1,)).held_out()
    assert bool((classes == 1).all())
    assert bool((x0[:, 0] > 0).all())
    with pytest.raises(ConfigError, match=r"class=\[7\]: .* no held-out examples of class=\[7\]; leave class out"):
        model(class_names=("left", "right"), chosen=(7,)).held_out()


def test_fewer_held_out_examples_than_asked_for_are_told(model, caplog):
    labels = {"class_names": ("left", "right")}
    right = int((model().data.test.labels == 1).sum())
    model(num_samples=400).held_out()
    assert not caplog.text
    for work, paired, found in (
        (model(num_samples=401), False, 400),
        (model(num_samples=400, chosen=(1,), **labels), False, right),
        (model(num_samples=500, **labels), True, 2 * (right // 2) + 2 * ((400 - right) // 2)),
    ):
        caplog.clear()
        assert len(work.held_out(paired=paired)[0]) == found
        assert f"num_samples={work.num_samples}: there are only {found} held-out examples" in caplog.text


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "data=... has no held-out examples, which"),
        ([0, 1], "data=... has no two held-out examples in pairs of one class"),
        (None, "data=... has no two held-out examples, which"),
    ],
)
def test_without_held_out_examples_the_error_speaks_of_no_class_that_was_not_chosen(model, labels, message):
    data = model().data
    data.test = InMemory(
        torch.zeros(1 if labels is None else len(labels), 2), torch.tensor(labels or [], dtype=torch.int64)
    )
    names = () if labels is None else ("left", "right")
    work = dataclasses.replace(model(class_names=names), load_data=lambda: data)
    with pytest.raises(ConfigError, match=message) as caught:
        work.held_out(paired=True)
    assert "class=" not in str(caught.value)


def test_examples_with_little_noise_come_back_and_with_much_are_invented(model):
    work = model(sampler="ddpm", steps=100, num_samples=16)
    outcome = InterpolateNoised(times=(0.01, 1.0), count=3)(work)
    samples, ends = outcome.arrays["samples"], outcome.arrays["ends"]
    assert samples.shape == (8, 2, 3, 2)
    assert outcome.arrays["times"].tolist() == pytest.approx([0.01, 1.0])
    back = (samples[:, :, [0, -1]] - ends[:, None]).square().mean((0, 2, 3)).sqrt()
    assert back[0] < 0.15 < 0.5 < back[1]
    # One noise for all weights: from pure noise the ends differ by little more than their noise does.
    again = InterpolateNoised(times=(0.01, 1.0), count=3)(work).arrays["samples"]
    torch.testing.assert_close(again, samples)


def test_a_sampler_starts_at_the_time_of_its_grid_that_is_nearest():
    schedule = dfw.build("schedule", "vp")
    sampler = dfw.build("sampler", "ddim", steps=10, grid=dfw.build("grid", "karras"))
    times = sampler.levels(schedule).t
    late = from_time(sampler, schedule, float(times[4]) + 1e-6)
    torch.testing.assert_close(late.levels(schedule).t, times[4:])
    assert late.steps == 6


def test_a_trajectory_ends_at_the_samples_and_holds_the_predictions_of_its_states(model):
    work = model(num_samples=7)
    outcome = Trajectory(frames=6)(work)
    times, x, x0 = (outcome.arrays[key] for key in ("times", "x", "x0"))
    assert x.shape == x0.shape == (6, 7, 2)
    assert times[[0, -1]].tolist() == [1.0, 0.0]
    torch.testing.assert_close(x[-1], Samples()(work).arrays["samples"])
    torch.testing.assert_close(x0[-1], x[-1])
    for i in range(5):
        torch.testing.assert_close(x0[i], work.denoiser(x[i], work.denoiser.schedule(times[i])).x0)


def test_a_guidance_draws_from_the_seed_in_every_mode(model):
    work = model(num_samples=7)
    guided = dfw.build(
        "guidance",
        "imputation",
        denoiser=work.denoiser,
        operator=Mask(torch.tensor([True, False])),
        measurement=torch.tensor([0.5, 0.0]),
    )
    work = dataclasses.replace(work, denoiser=guided)
    state = torch.get_rng_state()
    found = Trajectory(frames=3)(work).arrays
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(found["x"][-1], torch.cat([x for _, x in work.draw()]))
    for mode in (Encode(), Reconstruct(steps=(5,)), Temperature(ends="data"), Interpolate(ends="data")):
        with pytest.raises(ConfigError, match="guidance=imputation"):
            mode(work)


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 40), ("restart", 18)])
def test_a_trajectory_holds_the_states_that_it_shows_and_no_others(model, sampler, steps):
    work = model(sampler=sampler, steps=steps, num_samples=5, grid=dfw.build("grid", "karras"))
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0

    class Watched:
        schedule = work.denoiser.schedule

        def __call__(self, x, level, cond=None):
            nonlocal most
            alive.add(x)
            prediction = work.denoiser(x, level, cond)
            alive.add(prediction.x0)
            most = max(most, len(alive))
            return prediction

    watched = dataclasses.replace(work, denoiser=Watched())
    shown = Trajectory(frames=3).followed(watched, range(5))
    assert most <= 12
    full = Trajectory(frames=1000).followed(watched, range(5))
    assert len(full[0]) == 1 + work.sampler.step_count(work.denoiser.schedule) >= 1 + steps
    middle = round((len(full[0]) - 1) / 2)
    assert shown[0] == [full[0][index] for index in (0, middle, -1)]
    for few, all_of_them in zip(shown[1:], full[1:], strict=True):
        assert torch.equal(few, all_of_them[[0, middle, -1]])


def test_the_samples_of_normal_data_are_proportional_to_the_temperature(model):
    work = model(NORMAL, num_samples=9)
    outcome = Temperature(temperatures=(0.5, 1.0, 2.0))(work)
    samples = outcome.arrays["samples"]
    torch.testing.assert_close(samples[:, 1], Samples()(work).arrays["samples"])
    torch.testing.assert_close(samples[:, 0], 0.5 * samples[:, 1])
    torch.testing.assert_close(samples[:, 2], 2 * samples[:, 1])


def test_neighbours_are_the_nearest_training_examples(model, monkeypatch):
    monkeypatch.setattr(search, "READ_AT_ONCE", 37)
    work = model(num_samples=6)
    found = {space: Neighbours(count=3, space=space)(work) for space in ("pixels", "features")}
    samples, train = found["pixels"].arrays["samples"], work.data.train.values
    distances, indices = torch.cdist(samples.double(), train.double()).topk(3, largest=False)
    for outcome in found.values():
        assert outcome.arrays["indices"].tolist() == indices.tolist()
        torch.testing.assert_close(outcome.arrays["distances"], distances)
    copies, own = search.nearest(train[[5, 9]], work.data.train, lambda values: values, 1)
    assert own[:, 0].tolist() == [5, 9]
    assert float(copies.max()) < 1e-6


def test_neighbours_take_memory_for_parts_of_examples_and_samples_only(model, monkeypatch):
    """Features come in batches, without gradients, on the device; distances of a part of both sides."""
    monkeypatch.setattr(search, "READ_AT_ONCE", 100)
    monkeypatch.setattr(search, "QUERIES_AT_ONCE", 8)
    monkeypatch.setattr(neighbours, "BATCH", 30)
    batches, sizes, places = [], [], []

    class Learned(type(dfw.build("features", "identity", shape=(2,)))):
        def forward(self, values):
            batches.append(len(values))
            assert not torch.is_grad_enabled()
            return super().forward(values)

        def to(self, device):
            places.append(device)
            return self

    cdist = torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda a, b: sizes.append((len(a), len(b))) or cdist(a, b))
    work = dataclasses.replace(model(num_samples=20), load_features=lambda: Learned(shape=(2,)))
    found = Neighbours(count=3, space="features")(work).arrays
    assert max(batches) == 30
    assert places == [work.device]
    assert max(sizes) == (8, 100)
    distances, indices = cdist(found["samples"].double(), work.data.train.values.double()).topk(3, largest=False)
    assert found["indices"].tolist() == indices.tolist()
    torch.testing.assert_close(found["distances"], distances)


@pytest.mark.parametrize(
    ("mode", "key"),
    [(Reconstruct, "steps"), (Temperature, "temperatures"), (InterpolateNoised, "times")],
)
def test_an_empty_list_is_refused(model, mode, key):
    with pytest.raises(ConfigError, match=rf"mode\.{key}=\[\]"):
        mode(**{key: ()})(model())


def test_sigma_is_that_of_the_grids_first_time(model):
    work = model(grid=dfw.build("grid", "explicit", times=[0.5]), steps=1)
    assert work.sigma == pytest.approx(float(work.denoiser.schedule(torch.tensor(0.5, dtype=torch.float64)).sigma))
    assert math.isfinite(work.sigma)
