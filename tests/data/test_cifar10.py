"""CIFAR-10's two formats."""

from __future__ import annotations

import os
import pickle
import re

import numpy as np
import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.registry import ConfigError

NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def batch(seed, count=6):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 3072), dtype=np.uint8), random.integers(0, 10, count)


def write_python(folder, protocol=2, keys=("data", "labels")):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(NAMES):
        pixels, labels = batch(seed)
        content = {keys[0]: pixels, keys[1]: labels.tolist(), "batch_label": name}
        (folder / name).write_bytes(pickle.dumps(content, protocol))


def write_binary(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(NAMES):
        pixels, labels = batch(seed)
        rows = np.concatenate([labels[:, None].astype(np.uint8), pixels], 1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def python_2_batch(pixels, labels):
    """A batch as Python 2 and NumPy of 2009 wrote it, opcode by opcode: its strings are bytes."""

    def string(value):
        return b"T" + len(value).to_bytes(4, "little") + value  # BINSTRING

    def integer(value):
        return b"J" + value.to_bytes(4, "little", signed=True)  # BININT

    count, width = pixels.shape
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n"
        + (b"(cnumpy\nndarray\n" + b"(" + integer(0) + b"t" + string(b"b") + b"tR")
        + (b"(" + integer(1) + b"(" + integer(count) + integer(width) + b"t")
        + (b"cnumpy\ndtype\n(" + string(b"u1") + integer(0) + integer(1) + b"tR")
        + (b"(" + integer(3) + string(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb")
        + (integer(0) + string(pixels.tobytes()) + b"tb")
    )
    numbers = b"(" + b"".join(integer(int(label)) for label in labels) + b"l"
    return b"\x80\x02}(" + string(b"data") + array + string(b"labels") + numbers + b"u."


def check(data):
    assert data.shape == (3, 32, 32)
    assert data.class_names[0] == "airplane"
    assert data.class_names[9] == "truck"
    expected = [batch(seed) for seed in range(6)]
    for examples, parts in ((data.train, expected[:5]), (data.test, expected[5:])):
        values, labels = examples.__getitems__(range(len(examples)))
        assert values.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert np.array_equal(values.flatten(1).numpy(), np.concatenate([pixels for pixels, _ in parts]))
        assert labels.tolist() == np.concatenate([numbers for _, numbers in parts]).tolist()


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-py"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_python_batches_are_read(tmp_path, subfolder, protocol):
    write_python(tmp_path / subfolder, protocol)
    check(dfw.build("data", "cifar10", root=str(tmp_path)))


def test_batches_with_keys_of_bytes_are_read(tmp_path):
    write_python(tmp_path, keys=(b"data", b"labels"))
    check(dfw.build("data", "cifar10", root=str(tmp_path)))


def test_batches_that_python_2_wrote_are_read(tmp_path):
    for seed, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(python_2_batch(*batch(seed)))
    check(dfw.build("data", "cifar10", root=str(tmp_path)))


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-bin"])
def test_binary_batches_are_read(tmp_path, subfolder):
    write_binary(tmp_path / subfolder)
    check(dfw.build("data", "cifar10", root=str(tmp_path)))


def test_flips_double_the_training_images_alone(tmp_path):
    write_binary(tmp_path)
    plain = dfw.build("data", "cifar10", root=str(tmp_path))
    flipped = dfw.build("data", "cifar10", root=str(tmp_path), horizontal_flip=True)
    count = len(plain.train)
    assert len(flipped.train) == 2 * count
    assert len(flipped.test) == len(plain.test)
    values, labels = plain.train.__getitems__(range(count))
    both, both_labels = flipped.train.__getitems__([*range(count), *range(count, 2 * count)])
    assert torch.equal(both, torch.cat([values, values.flip(-1)]))
    assert torch.equal(both_labels, labels.repeat(2))
    assert flipped.train.fingerprint() != plain.train.fingerprint()
    assert flipped.originals.fingerprint() == plain.originals.fingerprint() == plain.train.fingerprint()


class Stranger:
    """Runs a command when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("function", [os.mkdir, os.system, eval])
def test_a_malicious_pickle_does_not_run(tmp_path, function):
    write_python(tmp_path)
    target = tmp_path / "broken_in"
    argument = {os.mkdir: str(target), os.system: f"mkdir {target}", eval: f"__import__('os').mkdir({str(target)!r})"}
    attack = {"data": Stranger(function, argument[function]), "labels": [0]}
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps(attack))
    with pytest.raises(ConfigError, match=r"data_batch_3 is not a batch of arrays: it asks for (posix|builtins)\."):
        _ = dfw.build("data", "cifar10", root=str(tmp_path)).train
    assert not target.exists()
    pickle.loads((tmp_path / "data_batch_3").read_bytes())
    assert target.exists()  # read without care, the same file runs


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        pickle.dumps({"data": batch(0)[0], "labels": [1] * 6})[:-100],
        pickle.dumps([1, 2]),
        pickle.dumps({"data": batch(0)[0]}),
        pickle.dumps({"data": batch(0)[0], "labels": [1] * 5}),
        pickle.dumps({"data": batch(0)[0].astype(float), "labels": [1] * 6}),
        pickle.dumps({"data": batch(0)[0][:, :100], "labels": [1] * 6}),
        pickle.dumps({"data": batch(0)[0], "labels": [10] * 6}),
        pickle.dumps({"data": batch(0)[0], "labels": ["cat"] * 6}),
        pickle.dumps({"data": batch(0)[0][:0], "labels": []}),
        pickle.dumps({"data": [[1, 2], [3]], "labels": [1, 1]}),
    ],
)
def test_a_corrupt_python_batch_is_named(tmp_path, content):
    write_python(tmp_path)
    path = tmp_path / "data_batch_2"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        _ = dfw.build("data", "cifar10", root=str(tmp_path)).train


@pytest.mark.parametrize("content", [b"", b"\0" * 3072, b"\x0a" + b"\0" * 3072])
def test_a_corrupt_binary_batch_is_named(tmp_path, content):
    write_binary(tmp_path)
    path = tmp_path / "test_batch.bin"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        _ = dfw.build("data", "cifar10", root=str(tmp_path)).test


def test_missing_files_say_what_to_get(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.root=.*CIFAR-10.*extract"):
        _ = dfw.build("data", "cifar10", root=str(tmp_path)).train
    write_binary(tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(ConfigError, match=r"data_batch_4\.bin is missing"):
        _ = dfw.build("data", "cifar10", root=str(tmp_path)).train
