"""What the Fréchet distance compares with: held-out examples, training examples, or published statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.composition.parts import build_metric
from diffusion_fw.data.dataset import InMemory, WithFlips
from diffusion_fw.noise import generator

SPLITS = {
    "train": torch.randn(60, 3, generator=generator(0)),
    "test": 2 * torch.randn(40, 3, generator=generator(1)) + 1,
}
GENERATED = torch.randn(50, 3, generator=generator(2)) - 0.5


def fid(folder, reference, num_samples=50):
    features = dfw.build("features", "identity", shape=(3,))
    splits = {key: InMemory(value) for key, value in SPLITS.items()}
    options = {"num_samples": num_samples, "cache_dir": str(folder), "reference": str(reference)}
    return dfw.build("metric", "fid", features=features, **splits, **options)


def value(metric, samples=GENERATED):
    metric.reset()
    metric.update(samples)
    return metric.compute()


def frechet(x, y):
    """|mu - mu_r|^2 + tr(C + C_r) - 2 tr (C C_r)^(1/2), the root by eigenvalues."""
    x, y = x.double(), y.double()
    cross = torch.linalg.eigvals(x.T.cov() @ y.T.cov()).real.clamp(min=0).sqrt().sum()
    return ((x.mean(0) - y.mean(0)).square().sum() + x.T.cov().trace() + y.T.cov().trace() - 2 * cross).item()


@pytest.fixture
def statistics(tmp_path):
    """A file as EDM and ADM write it, of the given examples."""

    def write(examples=SPLITS["train"], **others):
        content = examples.double().numpy()
        arrays = {"mu": content.mean(0), "sigma": np.cov(content, rowvar=False), **others}
        path = tmp_path / "cifar10-32x32.npz"
        np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
        return path

    return write


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_distance_is_that_to_the_whole_split(tmp_path, split):
    assert value(fid(tmp_path, split)) == pytest.approx(frechet(GENERATED, SPLITS[split]), rel=1e-9)


def test_a_file_of_the_statistics_of_a_split_stands_for_it(tmp_path, statistics):
    others = {"mu_s": np.zeros(5), "arr_0": np.zeros((2, 4, 4, 3), dtype=np.uint8)}  # as in ADM's files
    found = value(fid(tmp_path, statistics(**others)))
    assert found == pytest.approx(value(fid(tmp_path, "train")), rel=1e-9)


def test_the_name_says_which_reference_but_for_the_held_out_examples(tmp_path, statistics):
    names = [fid(tmp_path, reference).name("ema") for reference in ("test", "train", statistics())]
    assert names == ["fid/identity@50/ema", "fid/identity(train)@50/ema", "fid/identity(cifar10-32x32)@50/ema"]
    described = [fid(tmp_path, item).description()["reference_fingerprint"] for item in ("test", "train", statistics())]
    assert len(set(described)) == 3


@pytest.mark.parametrize(
    ("reference", "real", "said"),
    [
        ("test", "train", "60 training against 40 held-out examples"),
        ("train", "test", "40 held-out against 60 training examples"),
        ("file", "test", "40 held-out examples against cifar10-32x32.npz"),
    ],
)
def test_the_floor_is_of_real_examples_that_the_reference_does_not_hold(tmp_path, statistics, reference, real, said):
    metric = fid(tmp_path, statistics() if reference == "file" else reference, num_samples=100)
    compared = SPLITS["test" if reference == "test" else "train"]
    assert metric.floor() == pytest.approx(frechet(SPLITS[real], compared), rel=1e-9)
    assert metric.floor_of == said
    assert metric.floor_samples == len(SPLITS[real])


class Trap:
    def __reduce__(self):
        return pytest.fail, ("code of the file ran",)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(2), "sigma": np.eye(2)}, r"mu \(2,\), sigma \(2, 2\), but features=identity has mu \(3,\)"),
        ({"sigma": None}, r"it holds mu \(3,\), but"),
        ({"mu": None, "sigma": None}, "neither mu nor sigma"),
        ({"sigma": np.triu(np.ones((3, 3)))}, "sigma symmetric"),
        ({"mu": np.full(3, np.nan)}, "must be finite"),
        ({"mu": np.array([Trap()] * 3, dtype=object)}, "no|not an npz file of numbers"),
    ],
)
def test_a_file_of_other_statistics_is_refused(tmp_path, statistics, arrays, message):
    with pytest.raises(dfw.ConfigError, match=message) as refused:
        fid(tmp_path, statistics(**arrays))
    assert str(refused.value).startswith("metric=fid") or "metric.reference=" in str(refused.value)


@pytest.mark.parametrize("reference", ["validation", "/nowhere/cifar10.npz", ""])
def test_a_reference_that_is_neither_a_split_nor_a_file_is_refused(tmp_path, reference):
    with pytest.raises(dfw.ConfigError, match="must be train, test or an npz file"):
        fid(tmp_path, reference)


class Pictures(dfw.Data):
    """Random images, with the mirror images of the training examples if ``flips``."""

    default_features = "pixels"
    shape = (1, 8, 8)

    def __init__(self, flips) -> None:
        self.flips = flips

    def load(self, split):
        source = generator(5 if split == "train" else 6)
        examples = InMemory(torch.randint(0, 256, (40, 1, 8, 8), generator=source, dtype=torch.uint8))
        return WithFlips(examples) if self.flips and split == "train" else examples


@pytest.mark.parametrize("reference", ["train", "test"])
def test_mirror_images_of_the_training_are_not_measured(tiny, reference):
    """Published statistics are of the examples as they are, and so are the reference and the floor here."""
    config = tiny({"metric.reference": reference, "metric.num_samples": 30})
    (one, name), (other, same) = (build_metric(config, Pictures(flips)) for flips in (False, True))
    assert name == same
    assert one.name("ema") == other.name("ema")
    assert one.description() == other.description()
    assert one.floor() == other.floor()
