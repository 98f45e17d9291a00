"""The distribution of training times, on tables and continuous schedules."""

from __future__ import annotations

import math

import pytest
import torch

import diffusion_fw as dfw

NAMES = dfw.names("time_sampler")
TABLES_ONLY = ["discrete", "loss_aware"]
INVERSE = ["uniform", "log_normal", "logit_normal"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairs():
    continuous = [(name, path) for name in NAMES if name not in TABLES_ONLY for path in ("vp", "edm", "flow", "ve")]
    return continuous + [(name, path) for name in NAMES for path in ("linear", "ncsn")]


@pytest.mark.parametrize(("name", "path"), pairs())
def test_times_are_noisy_ones_of_the_schedule_and_the_generator_determines_them(name, path):
    schedule = dfw.build("schedule", path)
    t = dfw.build("time_sampler", name)(1000, schedule, seeded())
    assert t.shape == (1000,)
    assert t.dtype == torch.float64
    assert t.min() >= schedule.t_min
    assert t.max() <= 1
    torch.testing.assert_close(schedule.snap(t), t, rtol=0, atol=1e-15)
    assert torch.equal(t, dfw.build("time_sampler", name)(1000, schedule, seeded()))
    assert not torch.equal(t, dfw.build("time_sampler", name)(1000, schedule, seeded(1)))


@pytest.mark.parametrize("name", TABLES_ONLY)
def test_rows_are_not_drawn_from_a_continuous_schedule(name):
    with pytest.raises(dfw.ConfigError, match=f"time_sampler={name}.*schedule=cosine"):
        dfw.build("time_sampler", name)(4, dfw.build("schedule", "vp"))


@pytest.mark.parametrize("name", NAMES)
def test_what_has_learned_nothing_weighs_every_time_the_same(name):
    sampler, schedule = dfw.build("time_sampler", name), dfw.build("schedule", "linear")
    t = sampler(50, schedule, seeded())
    torch.testing.assert_close(sampler.weight(t), torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize("stratified", [False, True])
def test_log_normal_draws_a_normal_log_sigma(stratified):
    """Karras et al. 2022: P_mean = -1.2, P_std = 1.2."""
    schedule = dfw.build("schedule", "edm")
    t = dfw.build("time_sampler", "log_normal", stratified=stratified)(200_000, schedule, seeded())
    log_sigma = (80 * t).log()
    tolerance = 1e-3 if stratified else 0.02
    assert log_sigma.mean().item() == pytest.approx(-1.2, abs=tolerance)
    assert log_sigma.std().item() == pytest.approx(1.2, abs=tolerance)


def test_log_normal_is_the_same_distribution_of_noise_on_every_schedule():
    quantiles = []
    for path in ("edm", "vp", "flow", "cosine_continuous"):
        schedule = dfw.build("schedule", path)
        u = torch.tensor([0.1, 0.25, 0.5, 0.9], dtype=torch.float64)
        quantiles.append(schedule(dfw.build("time_sampler", "log_normal").times(u, schedule)).log_snr)
    for found in quantiles[1:]:
        torch.testing.assert_close(found, quantiles[0], rtol=1e-9, atol=0)


def test_logit_normal_draws_a_normal_logit_of_time():
    t = dfw.build("time_sampler", "logit_normal", mean=0.3, std=0.8)(200_000, dfw.build("schedule", "flow"), seeded())
    assert torch.logit(t).mean().item() == pytest.approx(0.3, abs=0.01)
    assert torch.logit(t).std().item() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("name", INVERSE)
def test_a_stratified_batch_has_one_time_in_each_of_its_equal_parts(name):
    schedule = dfw.build("schedule", "flow")
    sampler = dfw.build("time_sampler", name, stratified=True)
    edges = sampler.times(torch.arange(65, dtype=torch.float64) / 64, schedule)
    part = torch.bucketize(sampler(64, schedule, seeded()), edges, right=True) - 1
    assert sorted(part.tolist()) == list(range(64))
    assert part.tolist() != sorted(part.tolist())


def test_a_stratified_batch_is_one_lattice_moved_by_one_random_number():
    schedule = dfw.build("schedule", "edm")
    sampler = dfw.build("time_sampler", "uniform", stratified=True)
    batches = [sampler(16, schedule, seeded(seed)).sort().values for seed in (0, 1)]
    for t in batches:
        torch.testing.assert_close(t.diff(), torch.full((15,), (1 - schedule.t_min) / 16, dtype=torch.float64))
    assert batches[0][0] != batches[1][0]


@pytest.mark.parametrize("name", INVERSE)
def test_every_part_of_a_stratified_batch_on_several_processes_covers_the_times(name):
    schedule = dfw.build("schedule", "flow")
    sampler = dfw.build("time_sampler", name, stratified=True)
    t = torch.stack([sampler(64, schedule, seeded(seed))[1::4] for seed in range(200)])
    plain = sampler.times((torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000, schedule)
    assert t.mean().item() == pytest.approx(plain.mean().item(), abs=0.02)


@pytest.mark.parametrize("name", INVERSE)
@pytest.mark.parametrize("path", ["linear", "vp", "flow", "edm"])
def test_the_ends_of_the_unit_interval_are_noisy_times(name, path):
    schedule = dfw.build("schedule", path)
    t = dfw.build("time_sampler", name).times(torch.tensor([0.0, 1.0], dtype=torch.float64), schedule)
    assert schedule.t_min <= t[0] < t[1] <= 1
    assert schedule(t).log_snr[0].isfinite()


# Importance sampling by loss.


def table():
    return dfw.build("schedule", "cosine", num_steps=20)


def trained(loss_of_row, seed: int = 0):
    """A loss_aware sampler that has seen enough of a loss that depends on the row alone."""
    sampler, generator = dfw.build("time_sampler", "loss_aware"), seeded(seed)
    for _ in range(40):
        t = sampler(64, table(), generator)
        sampler.update(t, loss_of_row(t))
    return sampler


def test_rows_are_drawn_in_proportion_to_the_root_mean_square_of_their_losses():
    sampler = trained(lambda t: 1 / t)
    rows = torch.arange(1, 21, dtype=torch.float64)
    proportional = (1 / rows) / (1 / rows).sum()
    torch.testing.assert_close(sampler.probabilities(), 0.999 * proportional + 0.001 / 20, rtol=1e-12, atol=0)
    t = sampler(100_000, table(), seeded(3))
    drawn = torch.bincount((t * 20).round().long() - 1, minlength=20) / 100_000
    torch.testing.assert_close(drawn.double(), sampler.probabilities(), rtol=0, atol=5e-3)


def test_the_weights_make_the_expected_loss_that_of_uniform_rows():
    sampler = trained(lambda t: 1 / t)
    rows = table().table.t[1:]
    torch.testing.assert_close(sampler.weight(rows) * sampler.probabilities(), torch.full((20,), 1 / 20).double())
    t = sampler(100_000, table(), seeded(4))
    estimate = (sampler.weight(t) / t).mean().item()
    assert estimate == pytest.approx((1 / rows).mean().item(), rel=2e-3)


def test_importance_sampling_lowers_the_variance_of_the_loss():
    sampler = trained(lambda t: 1 / t)
    t = sampler(10_000, table(), seeded(5))
    uniform = dfw.build("time_sampler", "discrete")(10_000, table(), seeded(5))
    assert (sampler.weight(t) / t).var() < 0.01 * (1 / uniform).var()


def test_rows_are_uniform_until_each_has_ten_losses():
    sampler = dfw.build("time_sampler", "loss_aware")
    sampler(1, table(), seeded())
    rows = table().table.t[1:]
    sampler.update(rows[:-1].repeat(10), torch.rand(190))
    sampler.update(rows[-1:].repeat(9), torch.rand(9))
    torch.testing.assert_close(sampler.probabilities(), torch.full((20,), 1 / 20).double())
    sampler.update(rows[-1:], torch.tensor([100.0]))
    assert sampler.probabilities().argmax() == 19


@pytest.mark.parametrize("at_once", [1, 3, 12, 25])
def test_only_the_last_ten_losses_of_a_row_count_however_many_come_at_once(at_once):
    sampler = dfw.build("time_sampler", "loss_aware", uniform=0.0)
    sampler(1, dfw.build("schedule", "linear", num_steps=200), seeded())
    rows = dfw.build("schedule", "linear", num_steps=200).table.t[1:]
    sampler.update(rows[1:].repeat(10), torch.ones(1990))
    losses = torch.arange(1.0, 26.0)
    for part in losses.split(at_once):
        sampler.update(rows[:1].repeat(len(part)), part)
    size = math.sqrt(losses[-10:].square().mean().item())
    assert sampler.probabilities()[0].item() == pytest.approx(size / (size + 199), rel=1e-6)


def test_what_was_learned_survives_a_checkpoint():
    sampler, other = trained(lambda t: t), dfw.build("time_sampler", "loss_aware")
    other.load_state_dict(sampler.state_dict())
    assert torch.equal(other(500, table(), seeded(6)), sampler(500, table(), seeded(6)))
    saved, before = sampler.state_dict(), sampler.probabilities()
    sampler.update(torch.ones(64, dtype=torch.float64), torch.full((64,), 50.0))
    assert not torch.equal(before, sampler.probabilities())
    sampler.load_state_dict(saved)
    for same in (sampler, other):
        assert torch.equal(same.probabilities(), before)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"loss_aware"}))
def test_what_does_not_learn_has_an_empty_state(name):
    sampler = dfw.build("time_sampler", name)
    sampler.update(torch.ones(3), torch.ones(3))
    assert sampler.state_dict() == {}
    sampler.load_state_dict({})
