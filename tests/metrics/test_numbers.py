"""The numbers of metrics of samples are those of brute force and of closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.metrics import energy_distance, kid, neighbours, sliced_wasserstein
from diffusion_fw.metrics.sample_set import SampleSet

CPU = torch.device("cpu")


def draw(count, dim, seed, scale=1.0, shift=0.0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) * scale + shift


def number(build, given, name, samples, real, **settings):
    """The numbers of samples against real points."""
    metric = build(name, given(draw(5, real.shape[1], 9), real), num_samples=len(samples), **settings)
    return metric.against(SampleSet(features=real), CPU)(SampleSet(features=samples))


def unbiased_mmd(x, y):
    def k(a, b):
        return (sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_kid_of_one_whole_subset_is_the_unbiased_sum_over_all_pairs(build, given):
    x, y = draw(14, 3, 0), draw(14, 3, 1, scale=1.5, shift=0.3)
    found = number(build, given, "kid", x, y, subsets=3)
    assert found["kid"] == pytest.approx(unbiased_mmd(x.tolist(), y.tolist()), rel=1e-9)
    assert "kid_std" not in found


def test_kid_is_the_mean_over_subsets_and_near_that_of_all_pairs(build, given):
    x, y = draw(300, 3, 0), draw(200, 3, 1, scale=1.5, shift=0.3)
    found = number(build, given, "kid", x, y, subset_size=50)
    a, b = x.double(), y.double()
    whole = unbiased_of(a, b)
    assert abs(found["kid"] - whole) < 4 * found["kid_std"] / math.sqrt(100) * 3
    assert found["kid_std"] > 0
    assert found == number(build, given, "kid", x, y, subset_size=50)


def unbiased_of(a, b):
    n, m = len(a), len(b)
    aa, bb = ((kid.kernel(z, z).sum() - kid.kernel_diagonal(z).sum()) / (len(z) * (len(z) - 1)) for z in (a, b))
    return float(aa + bb - 2 * kid.kernel(a, b).sum() / (n * m))


def test_the_replicates_of_kid_are_the_estimates_without_each_group(build, given, monkeypatch):
    monkeypatch.setattr(kid, "ROWS", 7)
    x, y = draw(30, 3, 0), draw(20, 3, 1)
    metric = build("kid", given(draw(5, 3, 9), y), num_samples=30)
    group = torch.arange(30) % 4
    found = [item["kid"] for item in metric.replicates(lambda _: {}, SampleSet(features=x), group, CPU)]
    expected = [unbiased_of(x[group != g].double(), y.double()) for g in range(4)]
    differences = torch.tensor(found) - torch.tensor(expected)
    assert float(differences.std()) < 1e-6
    assert float(torch.tensor(found).std()) > 1e-3


@pytest.mark.parametrize("size", [1, 21, 1000])
def test_a_subset_larger_than_the_sets_is_refused(build, given, size):
    with pytest.raises(dfw.ConfigError, match=rf"metric.subset_size={size}: must be from 2 to 20"):
        number(build, given, "kid", draw(30, 3, 0), draw(20, 3, 1), subset_size=size)


def test_the_inception_score_is_its_definition(build, digits):
    logits = 3 * draw(60, 10, 0)
    metric = build("inception_score", digits, num_samples=60, splits=1)
    p = np.exp(logits.double().numpy())
    p /= p.sum(1, keepdims=True)
    divergence = (p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean()
    found = metric.score(SampleSet(logits=logits))
    assert found == {"inception_score": pytest.approx(math.exp(divergence), rel=1e-9), "inception_score_std": 0.0}


def test_the_inception_score_of_certain_and_even_guesses_is_the_number_of_classes(build, digits):
    metric = build("inception_score", digits, num_samples=60, splits=1)
    certain = 100 * torch.eye(10).repeat(6, 1)
    assert metric.score(SampleSet(logits=certain))["inception_score"] == pytest.approx(10)
    assert metric.score(SampleSet(logits=torch.zeros(60, 10)))["inception_score"] == pytest.approx(1)


def test_the_inception_score_needs_a_classifier_and_samples_for_each_part(build, digits, measured):
    with pytest.raises(dfw.ConfigError, match="tells no classes apart"):
        measured("inception_score", digits, digits.test.values[:50], features="pixels")
    with pytest.raises(dfw.ConfigError, match=r"metric.splits=10: must be at most 7"):
        measured("inception_score", digits, digits.test.values[:15])


def balls(x, k):
    """The distance of each point to its k-th nearest other one, by a loop."""
    return [sorted(math.dist(a, b) for j, b in enumerate(x) if j != i)[k - 1] for i, a in enumerate(x)]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("copies", [False, True])
def test_precision_recall_density_and_coverage_are_those_of_a_loop(build, given, monkeypatch, k, copies):
    monkeypatch.setattr(neighbours, "READ_AT_ONCE", 7)
    monkeypatch.setattr(neighbours, "QUERIES_AT_ONCE", 5)
    x, y = draw(23, 3, 0), draw(31, 3, 1, scale=1.3, shift=0.5)
    if copies:  # of real points, on the edges of other balls
        x = torch.cat([x[:10], y[4:17]])
    points, real = x.double().tolist(), y.double().tolist()
    reach, own = balls(real, k), balls(points, k)
    slack = 1e-9
    inside = [[math.dist(p, r) <= reach[j] + slack for j, r in enumerate(real)] for p in points]
    recalled = [any(math.dist(r, p) <= own[i] + slack for i, p in enumerate(points)) for r in real]
    found = number(build, given, "precision_recall", x, y, k=k)
    assert found == {"precision": pytest.approx(np.mean(np.any(inside, 1))), "recall": pytest.approx(np.mean(recalled))}
    found = number(build, given, "density_coverage", x, y, k=k)
    assert found["density"] == pytest.approx(np.sum(inside) / (k * len(points)))
    assert found["coverage"] == pytest.approx(np.mean(np.any(inside, 0)))


def test_density_and_coverage_of_the_same_distribution_are_the_published_expectations(build, given):
    """Naeem et al. 2020, section 3.3: density 1, and coverage 1 - 2^-k for equally many examples."""
    found = number(build, given, "density_coverage", draw(1500, 3, 0), draw(1500, 3, 1))
    assert found["density"] == pytest.approx(1, abs=0.04)
    assert found["coverage"] == pytest.approx(1 - 2**-5, abs=0.02)


@pytest.mark.parametrize("name", ["precision_recall", "density_coverage"])
def test_k_must_be_below_the_number_of_examples(build, given, name):
    with pytest.raises(dfw.ConfigError, match=r"metric.k=20: must be below the number of real examples"):
        number(build, given, name, draw(30, 3, 0), draw(20, 3, 1), k=20)


def test_the_neighbours_of_copies_are_at_distance_zero():
    x = draw(40, 100, 0) + 50
    assert float(neighbours.nearest(x, dfw.InMemory(x), lambda part: part, 1)[0].max()) == 0


@pytest.mark.parametrize(("n", "m"), [(7, 7), (4, 6), (5, 3), (1, 4)])
def test_the_distance_along_a_line_is_that_of_copies_of_equal_number(n, m):
    x, y = draw(n, 2, 0).double(), draw(m, 2, 1).double()
    many = [z.repeat_interleave(count, 0).sort(0).values for z, count in ((x, m), (y, n))]
    torch.testing.assert_close(sliced_wasserstein.squared_wasserstein(x, y), (many[0] - many[1]).square().mean(0))


def test_directions_are_orthogonal_as_long_as_there_are_dimensions():
    lines = sliced_wasserstein.directions(12, 5)
    for part in (lines[:5], lines[5:10], lines[10:]):
        torch.testing.assert_close(part @ part.T, torch.eye(len(part), dtype=torch.float64))


def test_the_sliced_distance_of_a_shifted_copy_is_its_closed_form(build, given):
    x, shift = draw(50, 4, 0), torch.tensor([1.0, -2.0, 0.5, 0.0])
    found = number(build, given, "sliced_wasserstein", x + shift, x, projections=8)
    assert found["sliced_wasserstein"] == pytest.approx(float(shift.norm()) / 2, rel=1e-6)


def test_the_sliced_distance_of_two_gaussians_comes_near_its_closed_form(build, given):
    """W_2^2 along a line is (difference of the means)^2 + (difference of the deviations)^2."""
    found = number(build, given, "sliced_wasserstein", draw(20_000, 2, 0, 2.0, 1.0), draw(10_000, 2, 1))
    assert found["sliced_wasserstein"] == pytest.approx(math.sqrt(1 + 1), rel=0.03)


def test_the_energy_distance_is_that_of_all_pairs(build, given, monkeypatch):
    monkeypatch.setattr(energy_distance, "ROWS", 3)
    x, y = draw(9, 3, 0).double(), draw(7, 3, 1, shift=1.0).double()

    def mean(a, b, pairs):
        return sum(math.dist(p, q) for p in a.tolist() for q in b.tolist()) / pairs

    expected = 2 * mean(x, y, 63) - mean(x, x, 72) - mean(y, y, 42)
    assert number(build, given, "energy_distance", x, y)["energy_distance"] == pytest.approx(expected, rel=1e-6)


def test_the_energy_distance_of_two_gaussians_comes_near_its_closed_form(build, given):
    """E|X - Y| of N(m, 2) is 2 / sqrt(pi) exp(-m^2 / 4) + m erf(m / 2)."""
    m = 1.0
    across = 2 / math.sqrt(math.pi) * math.exp(-m * m / 4) + m * math.erf(m / 2)
    expected = 2 * across - 2 * 2 / math.sqrt(math.pi)
    found = number(build, given, "energy_distance", draw(4000, 1, 0, shift=m), draw(4000, 1, 1))
    assert found["energy_distance"] == pytest.approx(expected, rel=0.08)


def test_the_energy_distance_is_scipys_without_its_bias(build, given):
    stats = pytest.importorskip("scipy.stats")
    x, y = draw(40, 1, 0), draw(30, 1, 1, shift=0.5)
    pairs = [float(torch.cdist(z, z).mean()) for z in (x, y)]
    biased = number(build, given, "energy_distance", x, y)["energy_distance"] + sum(
        mean * count / (count - 1) - mean for mean, count in zip(pairs, (40, 30), strict=True)
    )
    assert biased == pytest.approx(stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2, rel=1e-5)
