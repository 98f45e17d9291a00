from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

import diffusion_fw as dfw
from diffusion_fw import cache
from diffusion_fw.data.dataset import InMemory
from diffusion_fw.metrics import feature_statistics
from diffusion_fw.metrics.fid import FrechetDistance


def points(count: int, dim: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) * scale + shift


def images(count: int, seed: int, low: int = 0, high: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


def metric(
    folder: Path | str, reference: Tensor, num_samples: int, train: Tensor | None = None, features: str = "identity"
) -> FrechetDistance:
    extractor = dfw.build("features", features, shape=tuple(reference.shape[1:]))
    train = reference if train is None else train
    splits = {"train": InMemory(train), "test": InMemory(reference)}
    return dfw.build("metric", "fid", features=extractor, num_samples=num_samples, cache_dir=str(folder), **splits)


def distance(folder: Path | str, generated: Tensor, reference: Tensor, features: str = "identity") -> float:
    fid = metric(folder, reference, len(generated), features=features)
    fid.update(generated)
    return fid.compute()


def symmetric_distance(x: Tensor, y: Tensor) -> float:
    """tr (C C_r)^(1/2) by the eigenvalues of the symmetric C^(1/2) C_r C^(1/2), from centred float64 covariances."""
    x, y = x.double(), y.double()
    cov_x, cov_y = x.T.cov(), y.T.cov()
    values, vectors = torch.linalg.eigh(cov_x)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_y @ root).clamp(min=0).sqrt().sum()
    return ((x.mean(0) - y.mean(0)).square().sum() + cov_x.trace() + cov_y.trace() - 2 * cross).item()


def orthogonal_design(stds: list[float], mean: list[float]) -> Tensor:
    """Points whose sample mean and sample covariance are exactly ``mean`` and diag(stds^2): two on each axis."""
    dim = len(stds)
    scale = math.sqrt((2 * dim - 1) / 2)
    axes = torch.diag(torch.tensor(stds, dtype=torch.float64)) * scale
    return torch.cat([axes, -axes]) + torch.tensor(mean, dtype=torch.float64)


def test_the_distance_of_diagonal_gaussians_is_the_closed_form(tmp_path: Path) -> None:
    stds, other = [1.0, 2.0, 0.5], [0.5, 2.5, 3.0]
    mean, other_mean = [0.0, 1.0, -1.0], [2.0, 1.0, 0.0]
    x, y = orthogonal_design(stds, mean), orthogonal_design(other, other_mean)
    expected = sum((a - b) ** 2 for a, b in zip(mean + stds, other_mean + other, strict=True))
    assert distance(tmp_path, x, y) == pytest.approx(expected, rel=1e-5)


def test_samples_of_two_gaussians_come_near_their_distance(tmp_path: Path) -> None:
    x, y = points(20_000, 4, 0, scale=2.0), points(20_000, 4, 1, scale=1.0, shift=0.5)
    assert distance(tmp_path, x, y) == pytest.approx(4 * 0.5**2 + 4 * (2 - 1) ** 2, rel=0.03)


@pytest.mark.parametrize(("generated", "reference"), [(500, 360), (40, 360), (40, 30), (2, 2)])
def test_the_eigenvalues_of_rank_deficient_covariances_agree_with_the_symmetric_form(
    tmp_path: Path, generated: int, reference: int
) -> None:
    mix = points(64, 64, 2)
    x, y = points(generated, 64, 3) @ mix, points(reference, 64, 4) @ mix + 1
    assert distance(tmp_path, x, y) == pytest.approx(symmetric_distance(x, y), rel=1e-7)


def test_the_distance_of_a_set_to_itself_is_zero(tmp_path: Path) -> None:
    x = points(360, 64, 0)
    assert distance(tmp_path, x, x) == pytest.approx(0, abs=1e-8)


def test_the_distance_keeps_its_digits_far_from_the_origin(tmp_path: Path) -> None:
    x, y = points(300, 4, 0), points(300, 4, 1) * 2
    offset = 1024.0
    assert distance(tmp_path, x + offset, y + offset) == pytest.approx(
        symmetric_distance(x + offset, y + offset), rel=1e-7
    )


def test_batches_give_what_one_call_gives_and_reset_forgets(tmp_path: Path) -> None:
    x, y = images(120, 0), images(90, 1, high=128)
    fid = metric(tmp_path, y, 120, features="pixels")
    fid.update(x)
    whole = fid.compute()
    fid.reset()
    for batch in x.split([50, 7, 63]):
        fid.update(batch)
    assert fid.compute() == pytest.approx(whole, rel=1e-9)


def test_metric_works_across_inference_mode_and_autocast(tmp_path: Path) -> None:
    x, y = images(60, 0), images(60, 1, high=128)
    expected = distance(tmp_path, x, y, features="digits")
    fid = metric(tmp_path / "other", y, 60, features="digits")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        fid.reset()
        fid.update(x[:30])
    fid.update(x[30:])
    assert fid.compute() == pytest.approx(expected, rel=1e-6)


def test_a_number_of_samples_other_than_the_one_in_the_name_is_refused(tmp_path: Path) -> None:
    fid = metric(tmp_path, points(50, 3, 0), 40)
    fid.update(points(39, 3, 1))
    with pytest.raises(ValueError, match="39 samples were given for a distance of 40"):
        fid.compute()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_diverged_samples_have_the_distance_nan(tmp_path: Path, value: float) -> None:
    x = points(50, 3, 1)
    x[7, 1] = value
    assert math.isnan(distance(tmp_path, x, points(50, 3, 0)))


def test_an_empty_split_is_refused_when_built(tmp_path: Path) -> None:
    with pytest.raises(dfw.ConfigError, match="two examples of each split"):
        metric(tmp_path, points(1, 3, 0), 40)


def test_names_tell_features_samples_and_weights_apart(tmp_path: Path) -> None:
    y = images(30, 0)
    names = {
        metric(tmp_path, y, count, features=features).name(weights)
        for features in ("pixels", "digits")
        for count in (100, 500)
        for weights in ("ema", "raw")
    }
    assert len(names) == 8
    assert "fid/digits@500/ema" in names


def test_the_description_tells_reference_splits_apart(tmp_path: Path) -> None:
    large = metric(tmp_path, points(30, 3, 0), 100).description()
    small = metric(tmp_path, points(30, 3, 0)[:20], 100).description()
    assert (large["reference_samples"], small["reference_samples"]) == (30, 20)
    assert large["reference_fingerprint"] != small["reference_fingerprint"]


def test_the_floor_is_the_distance_of_real_examples_and_repeatable(tmp_path: Path) -> None:
    train, held_out = points(400, 3, 0), points(200, 3, 1)
    fid = metric(tmp_path, held_out, 100, train=train)
    again = metric(tmp_path / "other", held_out, 100, train=train)
    assert fid.floor() == again.floor()
    assert 0 < fid.floor() < distance(tmp_path, points(100, 3, 2, shift=1.0), held_out) / 5


def test_the_floor_of_all_examples_is_their_distance_and_states_how_many(tmp_path: Path) -> None:
    train, held_out = points(80, 3, 0), points(60, 3, 1)
    fid = metric(tmp_path, held_out, 500, train=train)
    assert fid.floor_samples == 80
    assert fid.floor() == pytest.approx(distance(tmp_path, train, held_out), rel=1e-9)


class Counting(InMemory):
    """Counts how often its examples are read."""

    reads = 0

    def __getitems__(self, indices):  # type: ignore[no-untyped-def]
        type(self).reads += 1
        return super().__getitems__(indices)


def reads_of_a_compute(folder: Path, reference: Tensor) -> tuple[int, float]:
    extractor = dfw.build("features", "identity", shape=tuple(reference.shape[1:]))
    fid = FrechetDistance(extractor, InMemory(reference), Counting(reference), num_samples=50, cache_dir=str(folder))
    fid.update(points(50, reference.shape[1], 9))
    Counting.reads = 0
    value = fid.compute()
    return Counting.reads, value


def test_reference_statistics_are_computed_once_for_the_same_examples(tmp_path: Path) -> None:
    y = points(60, 3, 0)
    first, value = reads_of_a_compute(tmp_path, y)
    again, cached_value = reads_of_a_compute(tmp_path, y)
    other, _ = reads_of_a_compute(tmp_path, y + 1)
    assert (first, again, other) == (1, 0, 1)
    assert value == cached_value
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".safetensors"]


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "of another shape"])
def test_a_broken_cache_file_is_made_again(tmp_path: Path, damage: str) -> None:
    y = points(60, 3, 0)
    _, value = reads_of_a_compute(tmp_path, y)
    (file,) = tmp_path.iterdir()
    reads_of_a_compute(tmp_path / "other", points(60, 2, 0))
    (other,) = (tmp_path / "other").iterdir()
    content = {
        "truncated": file.read_bytes()[:-20],
        "garbage": os.urandom(200),
        "empty": b"",
        "of another shape": other.read_bytes(),
    }[damage]
    file.write_bytes(content)
    assert reads_of_a_compute(tmp_path, y) == (1, value)
    assert reads_of_a_compute(tmp_path, y) == (0, value)


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_in_a_cache_file_is_found(tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    y = points(60, 3, 0)
    _, value = reads_of_a_compute(tmp_path, y)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    random = torch.Generator().manual_seed(seed)
    place, bit = (int(torch.randint(most, (), generator=random)) for most in (len(content), 8))
    content[place] ^= 1 << bit
    file.write_bytes(content)
    caplog.clear()
    assert reads_of_a_compute(tmp_path, y)[1] == value
    # The padding of the header holds nothing.
    assert len(caplog.records) == 1 or content[place] in bytes([32 ^ (1 << bit), 32])


FORGED: dict[str, dict[str, object]] = {
    "no examples": {"count": 0},
    "a negative number": {"count": -5},
    "another number": {"count": 59},
    "nan": {"total": torch.nan},
    "infinite": {"outer": torch.inf},
    "asymmetric": {"outer": torch.arange(9.0, dtype=torch.float64).view(3, 3)},
    "larger": {"outer": 1000.0},
}


@pytest.mark.parametrize("kind", FORGED)
@pytest.mark.parametrize("sealed", [True, False])
def test_forged_statistics_are_computed_again(
    tmp_path: Path, kind: str, sealed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Even with a hash of their own, unless they could be true."""
    y = points(60, 3, 0)
    _, value = reads_of_a_compute(tmp_path, y)
    (file,) = tmp_path.iterdir()
    content = load_file(file)
    for name, forged in FORGED[kind].items():
        content[name] = torch.zeros_like(content[name]) + torch.as_tensor(forged, dtype=content[name].dtype)
    del content[cache.DIGEST]
    save_file({**content, **({cache.DIGEST: cache.digest(file.name, content)} if sealed else {})}, file)
    assert (reads_of_a_compute(tmp_path, y)[1] == value) is not (sealed and kind == "larger")
    assert ("damaged" in caplog.text) is not (sealed and kind == "larger")


def test_the_statistics_of_other_data_are_no_substitute(tmp_path: Path) -> None:
    values = []
    for place, y in (("a", points(60, 3, 0)), ("b", points(60, 3, 1))):
        values.append(reads_of_a_compute(tmp_path / place, y)[1])
    (a,), (b,) = (list((tmp_path / place).iterdir()) for place in "ab")
    a.write_bytes(b.read_bytes())
    assert reads_of_a_compute(tmp_path / "a", points(60, 3, 0))[1] == values[0] != values[1]


def test_changed_code_of_the_features_computes_its_own_statistics(tmp_path: Path) -> None:
    code = """
import torch
from diffusion_fw.metrics.features.extractor import FeatureExtractor

class Scaled(FeatureExtractor):
    name, num_features = "scaled", 2
    def forward(self, examples):
        return {factor} * examples
"""
    totals = []
    for factor in (2, 3):
        (tmp_path / str(factor)).mkdir()
        (tmp_path / str(factor) / "scaled_features.py").write_text(code.format(factor=factor))
        spec = importlib.util.spec_from_file_location("scaled_features", tmp_path / str(factor) / "scaled_features.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules["scaled_features"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        split = InMemory(torch.ones(5, 2))
        found = feature_statistics.cached(module.Scaled(), split, range(5), torch.device("cpu"), tmp_path / "cache")
        totals.append(found.total.tolist())
    del sys.modules["scaled_features"]
    assert totals == [[10, 10], [15, 15]]


def test_features_of_the_data_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    split = InMemory(torch.full((5, 2), torch.nan))
    features = dfw.build("features", "identity", shape=(2,))
    with pytest.raises(dfw.ConfigError, match="features=identity: some features of the data are not finite"):
        feature_statistics.cached(features, split, range(5), torch.device("cpu"), tmp_path)


def test_a_cache_that_cannot_be_written_costs_only_the_computation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    y = points(60, 3, 0)
    assert reads_of_a_compute(tmp_path / "file" / "cache", y)[1] == reads_of_a_compute(tmp_path / "fine", y)[1]
    assert "could not be cached" in caplog.text


def test_the_default_cache_follows_the_platform_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    extractor = dfw.build("features", "identity", shape=(3,))
    split = InMemory(points(20, 3, 0))
    FrechetDistance(extractor, split, split, num_samples=20).floor()
    assert list((tmp_path / "diffusion_fw").glob("identity-*.safetensors"))


def distance_of_a_rank(rank: int, folder: str, generated: Tensor, reference: Tensor) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.distributed.all_gather = None  # type: ignore[assignment] # the sums of thousands of processes fit into no memory: they are only added
    fid = metric(f"{folder}/rank{rank}", reference, len(generated), features="pixels")
    values = []
    for _ in range(2):
        fid.update(generated[:70] if rank == 0 else generated[70:])
        values.append(fid.compute())
        fid.reset()
    floor = fid.floor() if rank == 0 else None
    torch.save((values, floor, os.listdir(folder)), f"{folder}/result{rank}")  # noqa: PTH208
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_distance_of_one(tmp_path: Path) -> None:
    x, y = images(100, 0), images(90, 1, high=160)
    expected = metric(tmp_path / "single", y, 100, features="pixels")
    expected.update(x)
    start_processes(distance_of_a_rank, (str(tmp_path), x, y), nprocs=2, start_method="fork", daemon=True)
    results = [torch.load(tmp_path / f"result{rank}", weights_only=True) for rank in range(2)]
    for values, _, _ in results:
        assert values == pytest.approx([expected.compute()] * 2, rel=1e-9)
    assert results[0][1] == pytest.approx(expected.floor(), rel=1e-9)
    assert not (tmp_path / "rank1").exists(), "the reference enters on one rank only"


def test_registering_the_metrics_imports_neither_torchmetrics_nor_lightning() -> None:
    code = (
        "import sys, diffusion_fw as dfw; dfw.names('features'); dfw.names('metric'); "
        "print([name for name in ('torchmetrics', 'lightning', 'efficientnet_lite_pytorch') if name in sys.modules])"
    )
    root = str(Path(dfw.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert result.stdout.strip() == "[]"
