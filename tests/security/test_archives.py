"""A stranger's data: no name becomes a file, no code runs, and nothing unpacks to more than the stated limits."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import stat
import struct
import time
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import diffusion_fw as dfw
from diffusion_fw.data.formats import decode, idx, image_files, numpy_pickle
from diffusion_fw.metrics import feature_statistics
from diffusion_fw.registry import ConfigError

MEGABYTE = 1 << 20


def png(size=4, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of_zeros(width, height, *extra):
    """A valid header of any size, and the beginning of the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(extra)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def archive(path, members):
    """A zip of (name or ZipInfo, content), beside three sound images in two classes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for number in range(6):
            file.writestr(f"{'ab'[number % 2]}/{number}.png", png(seed=number))
        for name, content in members:
            file.writestr(name, content)
    return path


def read(path, **parameters):
    data = dfw.build("data", "image_folder", path=str(path), size=4, **parameters)
    return [data.load(split).__getitems__(range(len(data.load(split))))[0] for split in ("train", "test")]


def files(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


# --------------------------------------------------------------------------------------------------------------------
# Names that are paths
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("../../escaped.png", 6),  # hidden, as every name with a part that begins with a dot
        ("a/../../../escaped.png", 6),
        ("..\\..\\escaped.png", 6),
        ("/tmp/escaped.png", 7),
        ("a//b.png", 7),
        ("a/C:\\escaped.png", 7),
    ],
)
@pytest.mark.parametrize("cache", [True, False])
def test_a_member_named_like_a_path_is_read_in_memory_and_becomes_no_file(tmp_path, name, images, cache):
    home = tmp_path / "deep" / "home"
    home.mkdir(parents=True)
    (tmp_path / "escaped.png").write_bytes(png(seed=9))
    path = archive(home / "images.zip", [(name, png())])
    before = files(tmp_path)
    train, test = read(path, cache=cache)
    assert len(train) + len(test) == images
    assert files(tmp_path) == before


def test_a_link_in_a_zip_is_not_followed(tmp_path):
    """Its content is the path that it points to, which is no image."""
    (tmp_path / "secret.png").write_bytes(png(seed=9))
    link = zipfile.ZipInfo("a/link.png")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = archive(tmp_path / "images.zip", [(link, str(tmp_path / "secret.png"))])
    with pytest.raises(ConfigError, match=r"a/link\.png .*is not a readable image"):
        read(path)
    train, test = read(path, on_error="skip")
    assert len(train) + len(test) == 6


def test_an_archive_in_an_archive_is_not_opened(tmp_path):
    inner = archive(tmp_path / "inner.zip", []).read_bytes()
    train, test = read(archive(tmp_path / "images.zip", [("a/inner.zip", inner)]))
    assert len(train) + len(test) == 6
    with pytest.raises(ConfigError, match=r"a/inner\.png .*is not a readable image"):
        read(archive(tmp_path / "renamed.zip", [("a/inner.png", inner)]))


# --------------------------------------------------------------------------------------------------------------------
# Bombs
# --------------------------------------------------------------------------------------------------------------------


def test_a_member_of_gigabytes_is_refused_by_name(tmp_path, limited):
    path = archive(tmp_path / "images.zip", [])
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("a/bomb.png", "w") as member,
    ):
        for _ in range(300):
            member.write(bytes(MEGABYTE))
    assert path.stat().st_size < 3 * MEGABYTE
    with (
        limited(128 * MEGABYTE),
        pytest.raises(ConfigError, match=r"a/bomb\.png \(it unpacks to 314,572,800 bytes, more"),
    ):
        read(path)


def test_a_member_that_lies_about_its_size_is_not_unpacked_further(tmp_path, limited):
    """The directory says 100 bytes where there are 200 MB."""
    path = archive(tmp_path / "images.zip", [("a/liar.png", bytes(200 * MEGABYTE))])
    content = path.read_bytes().replace(struct.pack("<I", 200 * MEGABYTE), struct.pack("<I", 100))
    path.write_bytes(content)
    with limited(128 * MEGABYTE), pytest.raises(ConfigError, match=r"a/liar\.png .*is not a readable image"):
        read(path)


SIDE = int(decode.LARGEST_IMAGE**0.5) + 1
BOMBS = {
    "just too large": png_of_zeros(SIDE, SIDE),
    "where Pillow only warns": png_of_zeros(10_000, 9_500),
    "where Pillow raises": png_of_zeros(20_000, 20_000),
    "one row": png_of_zeros(2**31 - 1, 1),
    "largest header": png_of_zeros(2**31 - 1, 2**31 - 1),
    "beyond the format": png_of_zeros(2**32 - 1, 2**32 - 1),
    "no pixels": png_of_zeros(0, 0),
    "text": png_of_zeros(4, 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 * MEGABYTE)))),
    "profile": png_of_zeros(4, 4, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100 * MEGABYTE)))),
    "bmp": b"BM"
    + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    + bytes(99),
    "gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\x80\0\0" + bytes(6) + b";",
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("cache", [True, False])
def test_an_image_of_absurd_size_is_an_error_that_names_it(tmp_path, kind, cache, limited):
    path = archive(tmp_path / "images.zip", [("a/bomb.png", BOMBS[kind])])
    with warnings.catch_warnings(), limited(256 * MEGABYTE):
        warnings.simplefilter("ignore")  # Pillow warns of what is refused in the next moment
        with pytest.raises(ConfigError, match=r"data\.path: a/bomb\.png .*is not a readable image"):
            read(path, cache=cache)


def test_the_limit_of_an_image_is_stated(tmp_path):
    path = archive(tmp_path / "images.zip", [("a/bomb.png", BOMBS["just too large"])])
    with pytest.raises(ConfigError, match=rf"{SIDE} x {SIDE} pixels, more than {decode.LARGEST_IMAGE:,}"):
        read(path)


def test_an_image_that_is_large_and_sound_is_read(tmp_path):
    """The limit is no smaller than what cameras make."""
    assert decode.LARGEST_IMAGE >= 61_000_000
    content = io.BytesIO()
    Image.new("RGB", (3000, 2000), "red").save(content, "PNG")
    train, test = read(archive(tmp_path / "images.zip", [("a/large.png", content.getvalue())]))
    assert any(torch.equal(image, torch.tensor([255, 0, 0]).view(3, 1, 1).expand(3, 4, 4)) for image in [*train, *test])


def header(*shape):
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


def mnist(folder, images):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(images)
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header(2) + bytes(2)))
    return dfw.build("data", "mnist", root=str(folder))


@pytest.mark.parametrize("shape", [(2**32 - 1, 2**32 - 1, 2**32 - 1), (2, 2**31, 2**31), (2, 1 << 15, 1 << 15)])
def test_absurd_dimensions_in_a_header_are_refused(tmp_path, shape, limited):
    data = mnist(tmp_path, gzip.compress(header(*shape) + bytes(10)))
    with (
        limited(128 * MEGABYTE),
        pytest.raises(ConfigError, match=rf"says {shape[0]} x .* more than {idx.LARGEST_ARRAY:,}"),
    ):
        _ = data.train


def test_a_gz_that_goes_on_after_its_images_is_not_unpacked_further(tmp_path, limited):
    content = header(2, 4, 4) + bytes(32) + bytes(300 * MEGABYTE)
    data = mnist(tmp_path, gzip.compress(content, 1))
    del content
    with limited(64 * MEGABYTE), pytest.raises(ConfigError, match="holds more bytes of data"):
        _ = data.train


# --------------------------------------------------------------------------------------------------------------------
# Pickles
# --------------------------------------------------------------------------------------------------------------------


def cifar(folder, content):
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(content)
    return dfw.build("data", "cifar10", root=str(folder))


@pytest.mark.parametrize("call", ["os.system", "os.mkdir", "builtins.exec", "builtins.eval"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickled_batch_calls_nothing(tmp_path, trap, call, protocol):
    path, calls = trap
    data = cifar(tmp_path, pickle.dumps({"data": calls[call], "labels": [0]}, protocol))
    with pytest.raises(ConfigError, match=r"data_batch_1 is not a batch of arrays: it asks for \w+\.\w+, which arrays"):
        _ = data.train
    assert not path.exists()


def nested(depth):
    value = [0]
    for _ in range(depth):
        value = [value, value]
    return value


OPCODES = {
    "an import by name": b"cos\nsystem\n.",
    "an import from the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent object": b"Pos.system\n.",
    "an attribute of what is allowed": b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.",
    "an unlisted function of numpy": b"cnumpy\nload\n.",
    "a memo with a large index": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
    "a string of many gigabytes": b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"x.",
    "a byte array of many gigabytes": b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"x.",
    "a frame of many gigabytes": b"\x80\x04\x95" + (1 << 40).to_bytes(8, "little") + b"x.",
    "an array of many gigabytes": b"cnumpy\nndarray\n(I1099511627776\ntR.",
    "lists that unfold": pickle.dumps({"data": nested(60), "labels": [0]}),
    "labels that unfold": pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": nested(60)}),
    "an array of objects": pickle.dumps({"data": np.array([{}, []], object), "labels": [0, 0]}),
}


@pytest.mark.parametrize("kind", OPCODES)
def test_a_batch_of_hostile_opcodes_is_refused_in_a_moment(tmp_path, kind, limited):
    data = cifar(tmp_path, OPCODES[kind])
    start = time.perf_counter()
    with limited(256 * MEGABYTE), pytest.raises(ConfigError, match="data_batch_1") as error:
        _ = data.train
    assert time.perf_counter() - start < 5
    assert len(str(error.value)) < 1000


def test_the_limit_of_a_pickled_file_is_stated(tmp_path, monkeypatch):
    monkeypatch.setattr(numpy_pickle, "LARGEST_FILE", 1000)
    with pytest.raises(ConfigError, match=r"data_batch_1 .*more than 1,000 bytes"):
        _ = cifar(tmp_path, pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [0]})).train


# --------------------------------------------------------------------------------------------------------------------
# What is cached
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        {"count": torch.tensor(5), "total": torch.zeros(2), "outer": torch.zeros(2, 2)},
        {"count": torch.tensor(5), "total": torch.zeros(9, dtype=torch.float64)},
        {"count": torch.tensor([5]), "total": torch.zeros(64, dtype=torch.float64)},
        {},
    ],
)
def test_cached_statistics_of_other_shapes_are_computed_again(tmp_path, content, caplog):
    data = dfw.build("data", "moons", num_examples=50)
    features = dfw.build("features", "identity", shape=(2,))
    arguments = (features, data.train, range(50), torch.device("cpu"), tmp_path)
    first = feature_statistics.cached(*arguments)
    (path,) = tmp_path.glob("*.safetensors")
    save_file(content, path)
    again = feature_statistics.cached(*arguments)
    assert torch.equal(again.outer, first.outer)
    assert "damaged" in caplog.text


@pytest.mark.parametrize("length", [2**63, 2**40, 0])
def test_a_cache_whose_header_claims_any_length_is_computed_again(tmp_path, length, caplog, limited):
    data = dfw.build("data", "moons", num_examples=50)
    features = dfw.build("features", "identity", shape=(2,))
    arguments = (features, data.train, range(50), torch.device("cpu"), tmp_path)
    feature_statistics.cached(*arguments)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with limited(256 * MEGABYTE):
        feature_statistics.cached(*arguments)
    assert re.search("damaged", caplog.text)


def test_the_largest_member_of_a_zip_is_no_smaller_than_a_photograph_needs():
    assert image_files.LARGEST_MEMBER >= 3 * decode.LARGEST_IMAGE
