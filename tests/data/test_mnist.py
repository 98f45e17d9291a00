"""Files in the IDX format."""

from __future__ import annotations

import gzip
import re
import struct

import numpy as np
import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.registry import ConfigError


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def images_and_labels(count, height, width):
    images = np.random.default_rng(count).integers(0, 256, (count, height, width), dtype=np.uint8)
    return images, (np.arange(count) % 7).astype(np.uint8)


def write(folder, prefix="", test="t10k", size=(28, 28), compressed=False):
    """The four files of a set; what was written, by split."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for split, stem, count in (("train", "train", 20), ("test", test, 9)):
        images, labels = written[split] = images_and_labels(count, *size)
        for kind, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            path = folder / f"{prefix}{stem}-{kind}{'.gz' if compressed else ''}"
            path.write_bytes(gzip.compress(idx(array)) if compressed else idx(array))
    return written


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("prefix", "test", "size"),
    [("", "t10k", (28, 28)), ("emnist-digits-", "test", (28, 28)), ("wide-", "t10k", (5, 9))],
)
def test_what_was_written_is_read(tmp_path, compressed, prefix, test, size):
    written = write(tmp_path, prefix, test, size, compressed)
    data = dfw.build("data", "mnist", root=str(tmp_path), prefix=prefix)
    assert data.shape == (1, *size)
    assert data.class_names == tuple("0123456")
    for split, (images, labels) in written.items():
        examples = data.load(split)
        values, found = examples.__getitems__(range(len(examples)))
        assert np.array_equal(values.squeeze(1).numpy(), images)
        assert values.dtype == torch.uint8
        assert found.dtype == torch.int64
        assert found.tolist() == labels.tolist()


def test_the_classes_are_the_labels_of_training_images(tmp_path):
    write(tmp_path)
    labels = (np.arange(20) % 3 * 10 + 1).astype(np.uint8)  # 1, 11, 21: as in EMNIST's letters, none is 0
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(labels[1:10]))
    data = dfw.build("data", "mnist", root=str(tmp_path))
    assert data.class_names == ("1", "11", "21")
    assert data.class_counts == (7, 7, 6)
    assert data.train.labels.tolist() == [i % 3 for i in range(20)]
    assert data.test.labels.tolist() == [i % 3 for i in range(1, 10)]
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(labels[1:10] + 1))
    with pytest.raises(ConfigError, match="has the label 12, which no training image has"):
        _ = dfw.build("data", "mnist", root=str(tmp_path)).test


def test_a_missing_file_is_named_with_where_it_belongs(tmp_path):
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    data = dfw.build("data", "mnist", root=str(tmp_path))
    assert len(data.train) == 20
    with pytest.raises(ConfigError, match=r"data\.root=.*t10k-labels-idx1-ubyte\.gz.*missing") as error:
        _ = data.test
    assert str(tmp_path) in str(error.value)


def test_a_missing_folder_and_a_wrong_prefix_are_missing_files(tmp_path):
    write(tmp_path)
    for parameters in ({"root": str(tmp_path / "nowhere")}, {"root": str(tmp_path), "prefix": "kuzushiji-"}):
        with pytest.raises(ConfigError, match=r"data\.root.*train-images-idx3-ubyte.*data\.prefix"):
            _ = dfw.build("data", "mnist", **parameters).shape


IMAGES = "train-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: b"", "begins with nothing"),
        (lambda content: b"\x89PNG" + content[4:], "begins with 89 50 4e 47"),
        (lambda content: content[:2] + b"\x0d" + content[3:], "begins with 00 00 0d 03"),
        (lambda content: content[:10], "ends within its header"),
        (lambda content: content[:-1], "20 x 28 x 28 = 15,680"),
        (lambda content: content + b"\0", "holds more bytes"),
    ],
)
def test_a_corrupt_file_is_named_with_what_is_wrong(tmp_path, damage, reason):
    write(tmp_path)
    path = tmp_path / IMAGES
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match=re.escape(reason)) as error:
        _ = dfw.build("data", "mnist", root=str(tmp_path)).train
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"not gzip",
        lambda content: content[: len(content) // 2],
        lambda content: content[:200] + bytes(byte ^ 255 for byte in content[200:300]) + content[300:],
    ],
)
def test_a_corrupt_gz_is_named(tmp_path, damage):
    write(tmp_path, compressed=True)
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        _ = dfw.build("data", "mnist", root=str(tmp_path)).train


def test_images_and_labels_of_different_counts_name_both_files(tmp_path):
    write(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(19, np.uint8)))
    with pytest.raises(ConfigError, match=r"train-images-idx3-ubyte holds 20 images .*train-labels-idx1-ubyte 19"):
        _ = dfw.build("data", "mnist", root=str(tmp_path)).train


def test_a_file_without_images_is_refused(tmp_path):
    (tmp_path / IMAGES).write_bytes(idx(np.zeros((0, 28, 28), np.uint8)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(0, np.uint8)))
    with pytest.raises(ConfigError, match="holds no images"):
        _ = dfw.build("data", "mnist", root=str(tmp_path)).train
