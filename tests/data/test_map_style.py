"""Datasets of torch as data: in Python, by a short plugin, of torchvision and of the package datasets."""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

import diffusion_fw as dfw
from diffusion_fw.data.formats import map_style
from diffusion_fw.registry import ConfigError


def pixels(index, size=6):
    return np.full((size, size, 3), (10 + index) % 256, dtype=np.uint8)


class Images(Dataset):
    """Images of which the i-th has the value 10 + i everywhere, of the classes i mod 3."""

    def __init__(self, count, make=lambda index: (Image.fromarray(pixels(index)), index % 3)):
        self.count, self.make, self.reads = count, make, 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads += 1
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.make(index)


FORMS = {
    "PIL": lambda index: (Image.fromarray(pixels(index)), index % 3),
    "array": lambda index: (pixels(index), np.int64(index % 3)),
    "tensor": lambda index: (torch.from_numpy(pixels(index)).permute(2, 0, 1), torch.tensor(index % 3)),
    "mapping": lambda index: {"image": pixels(index), "label": index % 3, "more": "text"},
}


@pytest.mark.parametrize("form", FORMS)
def test_images_in_any_form_become_pixels_with_classes(form):
    data = dfw.MapDataset(Images(7, FORMS[form]), Images(3, FORMS[form]))
    assert (data.shape, data.pixels, data.bounds, data.default_features) == ((3, 6, 6), True, (-1.0, 1.0), "pixels")
    assert (data.class_names, data.class_counts) == (("0", "1", "2"), (3, 2, 2))
    values, labels = data.train.__getitems__([4, 0])
    assert values.dtype == torch.uint8
    assert values.flatten(1).unique(dim=1).flatten().tolist() == [14, 10]
    assert labels.tolist() == [1, 0]
    assert len(data.test) == 3


def test_points_without_labels_are_seen_as_they_are():
    data = dfw.MapDataset(torch.utils.data.TensorDataset(torch.randn(50, 2)), test_fraction=0.2)
    assert (data.shape, data.class_names, data.pixels, data.default_features) == ((2,), (), False, "identity")
    assert len(data.train) + len(data.test) == 50
    assert 0 < len(data.test) < 25
    assert "0.2 held out by a hash" in data.describe()
    assert data.train.__getitems__([0])[1] is None


def test_names_and_labels_of_the_dataset_are_taken_without_reading_it():
    dataset = Images(2000)
    dataset.classes, dataset.targets = ["a", "b", "c"], [index % 3 for index in range(2000)]
    data = dfw.MapDataset(dataset, Images(3))
    assert data.class_names == ("a", "b", "c")
    assert dataset.reads < 50
    assert data.class_counts == (667, 667, 666)


def test_a_large_split_is_read_while_training_and_hashed_in_part(monkeypatch):
    monkeypatch.setattr(map_style, "CACHE_BYTES", 0)
    monkeypatch.setattr(map_style, "HASHED", 5)
    dataset = Images(100)
    data = dfw.MapDataset(dataset, Images(3))
    lazy, reads = data.train, dataset.reads
    assert lazy.__getitems__(torch.tensor([3]))[0].unique().tolist() == [13]
    assert dataset.reads == reads + 1
    before = lazy.fingerprint()
    assert dataset.reads <= reads + 6
    assert dfw.MapDataset(Images(100), Images(3)).train.fingerprint() == before
    assert dfw.MapDataset(Images(99), Images(3)).train.fingerprint() != before


def changing(index):
    return torch.randn(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda index: torch.randn(3), r"is another one each time it is read; .*augmentation=\[...\]"),
        (lambda index: torch.zeros(2 + index), r"example 1 has the shape \(3,\), example 0 \(2,\)"),
        (lambda index: (torch.zeros(2), "a cat"), "label of an example is 'a cat', a str; it must be an integer"),
        (lambda index: {"picture": 3}, "none of the keys image, img, x, but picture"),
        (lambda index: "x", "an example is a str; it must be a tensor"),
    ],
)
def test_what_cannot_be_data_is_said(make, message):
    with pytest.raises(ConfigError, match=message):
        _ = dfw.MapDataset(Images(3, make), Images(3, make)).train


def test_empty_data_are_said():
    with pytest.raises(ConfigError, match="a Images is empty"):
        _ = dfw.MapDataset(Images(0)).train


def test_images_of_totensor_are_warned_about(caplog):
    data = dfw.MapDataset(Images(4, lambda index: torch.full((1, 4, 4), index / 4)))
    _ = data.train
    assert "floats from 0 to 1, which the model sees as they are" in caplog.text


@pytest.fixture
def mine(scratch_registry):
    @dfw.register("data", "mine")
    @dataclass(frozen=True)
    class Mine(dfw.DatasetData):
        """A plugin of five lines."""

        count: int = 12

        def dataset(self, split):
            return Images(
                self.count if split == "train" else 6, lambda index: torch.from_numpy(pixels(index, 8)[None, :, :, 0])
            )

    return Mine


def test_a_short_plugin_trains_and_is_sampled(mine, tmp_path):
    small = ["network.channels=4", "network.channel_mult=[1]", "batch_size=4", "trainer.max_steps=2", "sampler.steps=2"]
    words = ["data=mine", *small, "callbacks=[checkpoints]", "metric=none", "logger=none", "trainer=cpu"]
    dfw.train(dfw.compose(words), tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    found = dfw.sample(
        dfw.compose([f"checkpoint={checkpoint}", "num_samples=2", "device=cpu"], "sample"), tmp_path / "out"
    )
    assert found.arrays["samples"].shape == (2, 1, 8, 8)


def test_a_model_of_such_data_is_saved_with_their_facts(tmp_path):
    data = dfw.MapDataset(Images(9, lambda index: torch.full((2,), float(index))))
    network = dfw.build("network", "mlp", shape=data.shape, width=4)
    path = dfw.save(dfw.NetworkDenoiser(network, "vp", "v"), tmp_path / "model.ckpt", data=data)
    assert dfw.load(path).bounds == data.bounds


# torchvision


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    )


@pytest.fixture
def mnist(tmp_path):
    for split, count in (("train", 20), ("t10k", 10)):
        raw = tmp_path / "MNIST" / "raw"
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(raw / f"{split}-images-idx3-ubyte", images)
        write_idx(raw / f"{split}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return tmp_path


def test_torchvision_s_files_are_those_of_our_own_reader(mnist):
    pytest.importorskip("torchvision")
    found = dfw.build("data", "torchvision", dataset_name="MNIST", root=str(mnist))
    own = dfw.build("data", "mnist", root=str(mnist / "MNIST" / "raw"))
    assert (found.shape, found.class_counts, found.bounds) == ((1, 28, 28), (2,) * 10, (-1.0, 1.0))
    for split in ("train", "test"):
        (values, labels), (wanted, wanted_labels) = (
            getattr(data, split).__getitems__(range(10)) for data in (found, own)
        )
        assert torch.equal(values, wanted)
        assert torch.equal(labels, wanted_labels)


def test_torchvision_downloads_only_on_request(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")
    with pytest.raises(ConfigError, match=r"data\.root=.*not found.*data\.download=true gets it"):
        _ = dfw.build("data", "torchvision", dataset_name="CIFAR10", root=str(tmp_path)).train
    asked = []

    class SVHN(Images):
        def __init__(self, root, split, download):
            asked.append((split, download))
            super().__init__(4)

    monkeypatch.setattr(datasets, "SVHN", SVHN)
    data = dfw.build("data", "torchvision", dataset_name="SVHN", root=str(tmp_path), download=True)
    assert data.shape == (3, 6, 6)
    assert asked == [("train", True), ("test", True)]


# The package datasets


class Column(list):
    """A column that is read by its slice."""


class Table(Images):
    """What the package datasets returns, of a table with one column more."""

    def __init__(self, count, columns=("image", "label", "caption")):
        super().__init__(count)
        self.column_names = list(columns)
        self.features = {"label": SimpleNamespace(names=["cat", "dog", "cow"])}

    def select_columns(self, names):
        return Table(self.count, names)

    def __getitem__(self, key):
        if isinstance(key, str):
            if key == "caption":
                return Column([None, *(f" number {index} " for index in range(1, self.count))])
            return Column(index % 3 for index in range(self.count))
        everything = {"image": Image.fromarray(pixels(key, 12)), "label": key % 3, "caption": "a"}
        return {name: everything[name] for name in self.column_names}


@pytest.fixture
def hub(monkeypatch):
    calls = []

    def load_dataset(path, subset, *, split, revision):
        calls.append((path, subset, split, revision))
        if split == "nowhere":
            raise ValueError("Unknown split")
        return Table({"train": 9, "test": 3}[split])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(__version__="4.1.0", load_dataset=load_dataset))
    return calls


def test_images_of_the_hub_are_resized_and_have_their_names(hub):
    data = dfw.build("data", "hf_dataset", path="me/animals", revision="abc", size=8)
    assert (data.shape, data.class_names, data.class_counts) == ((3, 8, 8), ("cat", "dog", "cow"), (3, 3, 3))
    values, labels = data.train.__getitems__([5])
    assert (values.shape, values.unique().tolist(), labels.tolist()) == ((1, 3, 8, 8), [15], [2])
    assert hub == [("me/animals", None, "train", "abc"), ("me/animals", None, "test", "abc")]


def test_without_labels_and_held_out_images_some_are_held_out(hub):
    settings = {"label_column": None, "test_split": None, "test_fraction": 0.3}
    data = dfw.build("data", "hf_dataset", path="me/animals", size=8, channels=1, **settings)
    assert (data.shape, data.class_names) == ((1, 8, 8), ())
    assert len(data.train) + len(data.test) == 9
    assert len(hub) == 1


@pytest.mark.parametrize("test_split", ["test", None])
def test_a_column_of_the_hub_holds_captions(hub, caplog, test_split):
    settings = {"caption_column": "caption", "test_split": test_split, "size": 8}
    data = dfw.build("data", "hf_dataset", path="me/animals", **settings)
    for split in ("train", "test"):
        indices = data.splits[split].indices
        assert data.captions(split) == [f"number {index}" if index else "" for index in indices]
        assert data.captions(split) is data.captions(split)
    assert len(data.captions("train")) == len(data.train)
    (record,) = caplog.records
    assert "images have no caption" in record.getMessage()
    assert dfw.build("data", "hf_dataset", path="me/animals", size=8).captions("train") is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"caption_column": "text"}, "has no column 'text', but image, label, caption; set .*data.caption_column"),
        ({"train_split": "nowhere"}, "split 'nowhere' cannot be read: ValueError: Unknown split"),
        ({"image_column": "picture"}, "has no column 'picture', but image, label, caption; set data.image_column"),
    ],
)
def test_what_the_hub_s_data_lack_is_said(hub, settings, message):
    with pytest.raises(ConfigError, match=message):
        _ = dfw.build("data", "hf_dataset", path="me/animals", **settings).train


def test_a_version_that_would_run_scripts_and_a_missing_package_are_refused(monkeypatch):
    data = dfw.build("data", "hf_dataset", path="me/animals")
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(__version__="3.6.0"))
    with pytest.raises(ConfigError, match=r"datasets 3\.6\.0 can run scripts of a repository"):
        _ = data.train
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for name, settings, extra in (
        ("hf_dataset", {"path": "me/animals"}, "datasets"),
        ("torchvision", {"dataset_name": "MNIST"}, "torchvision"),
    ):
        with pytest.raises(ConfigError, match=rf'data={name}: .*pip install "diffusion-fw\[{extra}\]"'):
            _ = dfw.build("data", name, **settings).train


@pytest.mark.parametrize("targets", [[0] * 40, torch.rand(40), ["a"] * 40, torch.zeros(40, 2)])
def test_targets_that_are_not_the_labels_of_the_items_are_not_taken(targets):
    images = Images(40)
    images.targets = targets
    labels = dfw.MapDataset(images, Images(6)).train.labels
    assert labels.tolist() == [index % 3 for index in range(40)]


def test_labels_below_zero_are_refused():
    with pytest.raises(ConfigError, match="has the label -1; labels begin at 0"):
        dfw.MapDataset(Images(8, lambda index: (Image.fromarray(pixels(index)), -1)), Images(4)).class_names  # noqa: B018
