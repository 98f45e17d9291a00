"""The Fréchet distance against an independent implementation, its limit, and what is said about its use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusion_fw.metrics.feature_statistics import Fitted, of_vectors
from diffusion_fw.metrics.fid import at_infinity
from diffusion_fw.noise import generator

CPU = torch.device("cpu")


def draw(count, dim, seed, scale=1.0, shift=0.0):
    return torch.randn(count, dim, generator=generator(seed)) * scale + shift


def decaying(count, dim, seed, power, shift=0.0):
    """Features whose deviations fall as k^-power, in a random basis."""
    axes = torch.linalg.qr(torch.randn(dim, dim, generator=generator(99), dtype=torch.float64)).Q
    return draw(count, dim, seed).double() * torch.arange(1.0, dim + 1) ** -power @ axes + shift


def independent(x, y):
    """|mu - mu_r|^2 + tr(C + C_r) - 2 tr (C C_r)^(1/2) by scipy's square root of the product of full rank.

    Of low rank that root itself has half of the digits: tr (C C_r)^(1/2) is then the sum of the singular values of the
    product of the centred features.
    """
    linalg = pytest.importorskip("scipy.linalg")
    x, y = x.double().numpy(), y.double().numpy()
    covariances = [np.cov(z, rowvar=False) for z in (x, y)]
    if min(len(x), len(y)) > x.shape[1]:
        cross = np.trace(linalg.sqrtm(covariances[0] @ covariances[1])).real
    else:
        centred = [(z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y)]
        cross = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + sum(np.trace(c) for c in covariances) - 2 * cross


@pytest.mark.parametrize(
    ("dim", "n", "m", "power", "shift"),
    [
        *((32, 200, 150, power, 0.5) for power in (0, 1, 2)),
        *((64, 40, 30, power, shift) for power in (0, 1, 2) for shift in (0, 3)),
        (96, 30, 300, 1, 0.5),
        (96, 300, 30, 1, 0.5),
        (200, 5, 2, 1, 0.5),
    ],
)
def test_the_distance_is_that_of_an_independent_implementation(dim, n, m, power, shift):
    x, y = decaying(n, dim, 1, power, shift), 1.1 * decaying(m, dim, 2, power, shift)
    found = Fitted.of(of_vectors(x, CPU)).distance(Fitted.of(of_vectors(y, CPU)))
    assert float(found) == pytest.approx(independent(x, y), rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(40, 30), (200, 150)])
def test_scipys_root_agrees_as_far_as_it_is_exact(n, m):
    linalg = pytest.importorskip("scipy.linalg")
    x, y = decaying(n, 32, 1, 0, 0.5), 1.1 * decaying(m, 32, 2, 0, 0.5)
    first, second = (np.cov(z.numpy(), rowvar=False) for z in (x, y))
    means = float((x.mean(0) - y.mean(0)).square().sum())
    expected = means + np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
    found = Fitted.of(of_vectors(x, CPU)).distance(Fitted.of(of_vectors(y, CPU)))
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_examples_that_are_all_equal_have_a_distance():
    x, y = torch.ones(5, 3), draw(400, 3, 0)
    found = float(Fitted.of(of_vectors(x, CPU)).distance(Fitted.of(of_vectors(y, CPU))))
    assert found == pytest.approx(float((1 - y.mean(0)).square().sum() + y.var(0).sum()), rel=1e-5)


def test_evaluation_gives_the_tracked_value_and_keeps_its_record(build, measured, digits):
    samples = digits.train.values[:300]
    for reference in ("test", "train"):
        metric = build("fid", digits, num_samples=300, reference=reference)
        metric.update(samples)
        result = measured("fid", digits, samples, reference=reference)
        assert result.value == pytest.approx(metric.compute(), rel=1e-9)
        assert result.name == metric.name("ema")
        assert result.record["distance"] == result.value
        assert result.floor == result.record["floor"] == pytest.approx(metric.floor(), rel=1e-12)
        assert list(result.rows)[:2] == ["Fréchet distance", f"floor: {metric.floor_of}"]


def test_the_replicates_are_the_distances_without_each_group(build, given):
    x, y = draw(60, 3, 0), draw(50, 3, 1)
    metric = build("fid", given(draw(5, 3, 9), y), num_samples=60)
    measure, group = metric.measuring(CPU), torch.arange(60) % 4
    generated = metric.real("test", CPU)
    generated = type(generated)(features=x)
    found = [item["fid"] for item in metric.replicates(measure, generated, group, CPU)]
    assert found == pytest.approx([measure(generated[group != g])["fid"] for g in range(4)], rel=1e-9)


def test_the_intercept_is_that_of_the_line():
    counts = torch.tensor([10, 20, 50, 100])
    assert at_infinity(counts, 3 + 7 / counts.double()) == pytest.approx(3, rel=1e-12)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.2, 0.3)])
def test_the_extrapolated_distance_of_gaussians_comes_near_the_known_limit(measured, given, tmp_path, scale, shift):
    """Against the file of N(0, I): the limit is D (shift^2 + (scale - 1)^2), and few samples are far above it."""
    dim = 16
    np.savez(tmp_path / "normal.npz", mu=np.zeros(dim), sigma=np.eye(dim))
    data = given(draw(100, dim, 0), draw(100, dim, 1))
    limit, errors, biases = dim * (shift**2 + (scale - 1) ** 2), [], []
    for seed in range(5):
        samples = draw(600, dim, 10 + seed, scale, shift)
        result = measured("fid", data, samples, reference=str(tmp_path / "normal.npz"), interval_groups=0)
        errors.append(result.record["fid_infinity"] - limit)
        biases.append(result.value - limit)
    assert abs(sum(errors)) < 0.35 * sum(biases)


def test_the_extrapolation_needs_five_times_as_many_samples_as_features(measured, given):
    data = given(draw(100, 10, 0), draw(100, 10, 1))
    assert "fid_infinity" not in measured("fid", data, draw(49, 10, 2)).record
    assert "fid_infinity" in measured("fid", data, draw(50, 10, 2)).record
    assert "fid_infinity" not in measured("fid", data, draw(50, 10, 2), extrapolate=False).record


@pytest.mark.parametrize(
    ("samples", "real", "said"),
    [
        (30, 100, ["30 samples (metric.num_samples) are fewer than the 64 features"]),
        (100, 30, ["30 examples of the reference are fewer than the 64 features"]),
        (100, 100, []),
    ],
)
def test_fewer_examples_than_features_are_said(measured, digits, given, caplog, samples, real, said):
    data = given(digits.train.values[:100], digits.test.values[:real])
    measured("fid", data, digits.test.values[:samples], features="digits")
    assert all(text in caplog.text for text in said)
    assert ("fewer than" in caplog.text) is bool(said)


@pytest.mark.parametrize("other", [False, True])
def test_a_file_of_other_data_is_said(measured, given, caplog, tmp_path, other):
    made_of = draw(500, 3, 5) + (2 if other else 0)
    np.savez(tmp_path / "data.npz", mu=made_of.mean(0).numpy(), sigma=np.cov(made_of.numpy(), rowvar=False))
    data = given(draw(100, 3, 0), draw(400, 3, 1))
    measured("fid", data, draw(100, 3, 2), reference=str(tmp_path / "data.npz"))
    assert ("its mean is far from that of the held-out examples" in caplog.text) is other
