"""Folders and zips of images."""

from __future__ import annotations

import io
import logging
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion_fw as dfw
from diffusion_fw.data import image_folder
from diffusion_fw.data.formats import decode, image_files
from diffusion_fw.registry import ConfigError


def picture(seed, width=8, height=8):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tree(classes=("ant", "bee"), count=30, size=8, folder=""):
    """Relative paths and contents of PNG files, every picture another."""
    names = [f"{folder}{name}/{i:03d}.png" for name in classes for i in range(count)]
    return {name: encoded(picture(seed, size, size)) for seed, name in enumerate(names)}


def write(path, contents):
    """A folder, or a zip where the path ends in .zip."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
    else:
        for name, content in contents.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


def build(path, **knobs):
    return dfw.build("data", "image_folder", **{"path": str(path), "size": 8, **knobs})


def everything(examples):
    return examples.__getitems__(range(len(examples)))


def both_splits(data):
    return data.train, data.test


def pixels(content):
    return torch.from_numpy(np.array(Image.open(io.BytesIO(content)).convert("RGB"))).permute(2, 0, 1)


def paths(examples_or_data, split, contents):
    """Which files a split holds, by their pixels."""
    by_pixels = {pixels(content).numpy().tobytes(): name for name, content in contents.items()}
    values, _ = everything(examples_or_data.load(split))
    return [by_pixels[value.numpy().tobytes()] for value in values]


# --------------------------------------------------------------------------------------------------------------------
# Reading, classes, splits
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("where", ["images", "images.zip"])
def test_every_image_is_read_with_the_class_of_its_folder(tmp_path, where, cache):
    contents = tree(("bee", "ant"))
    data = build(write(tmp_path / where, contents), cache=cache)
    assert data.class_names == ("ant", "bee")
    assert data.shape == (3, 8, 8)
    found = paths(data, "train", contents) + paths(data, "test", contents)
    assert sorted(found) == sorted(contents)
    for split in ("train", "test"):
        names = [data.class_names[label] for label in everything(data.load(split))[1]]
        assert names == [path.split("/")[0] for path in paths(data, split, contents)]


def test_a_folder_its_zip_and_the_lazy_reading_of_both_are_the_same_data(tmp_path):
    contents = tree()
    folder, archive = write(tmp_path / "images", contents), write(tmp_path / "images.zip", contents)
    first, *others = [build(path, cache=cache) for path in (folder, archive) for cache in (True, False)]
    for split in ("train", "test"):
        values, labels = everything(first.load(split))
        for other in others:
            other_values, other_labels = everything(other.load(split))
            assert torch.equal(values, other_values)
            assert torch.equal(labels, other_labels)


def test_images_without_folders_have_no_classes(tmp_path):
    contents = {f"{i}.png": encoded(picture(i)) for i in range(20)}
    data = build(write(tmp_path / "images", contents))
    assert data.class_names == ()
    assert everything(data.train)[1] is None


def test_folders_that_all_images_share_do_not_count(tmp_path):
    deep = build(write(tmp_path / "deep.zip", tree(folder="download/images/")))
    flat = build(write(tmp_path / "flat.zip", tree()))
    assert deep.class_names == flat.class_names == ("ant", "bee")
    assert deep.train.fingerprint() == flat.train.fingerprint()


def test_images_beside_the_classes_are_refused(tmp_path):
    path = write(tmp_path / "images", {**tree(), "stray.png": encoded(picture(99))})
    with pytest.raises(ConfigError, match=r"in class folders, but stray\.png is not"):
        _ = build(path).class_names


def test_hidden_and_foreign_files_are_no_images(tmp_path):
    extra = {"ant/notes.txt": b"x", "ant/.hidden.png": b"x", "__MACOSX/ant/._001.png": b"x", ".cache/a.png": b"x"}
    plain, littered = build(write(tmp_path / "a", tree())), build(write(tmp_path / "b", {**tree(), **extra}))
    assert plain.train.fingerprint() == littered.train.fingerprint()
    assert plain.class_names == littered.class_names


@pytest.mark.parametrize("where", ["images", "images.zip"])
def test_folders_train_and_test_are_the_split(tmp_path, where):
    train, test = tree(count=5, folder="train/"), tree(("bee",), count=3, folder="test/")
    test = {name: encoded(picture(1000 + seed)) for seed, name in enumerate(test)}
    data = build(write(tmp_path / where, {**train, **test}))
    assert paths(data, "train", train) == sorted(train)
    assert paths(data, "test", test) == sorted(test)
    assert data.class_names == ("ant", "bee")
    assert everything(data.test)[1].tolist() == [1, 1, 1]


def test_images_beside_train_and_test_are_left_out_with_a_count(tmp_path, caplog):
    contents = {**tree(count=5, folder="train/"), **tree(count=2, folder="test/"), **tree(count=3, folder="val/")}
    data = build(write(tmp_path / "images", contents))
    assert (len(data.train), len(data.test)) == (10, 4)
    assert "ignored 6 images outside train and test" in caplog.text


def test_the_split_is_disjoint_repeatable_and_of_about_the_fraction_asked_for(tmp_path):
    contents = tree(count=200, size=4)
    path = write(tmp_path / "images.zip", contents)
    data = build(path, size=4, test_fraction=0.25)
    train, test = paths(data, "train", contents), paths(data, "test", contents)
    assert not set(train) & set(test)
    assert len(train) + len(test) == 400
    assert abs(len(test) - 100) < 45  # five standard deviations
    assert paths(build(path, size=4, test_fraction=0.25), "test", contents) == test
    assert set(paths(build(path, size=4, test_fraction=0.1), "test", contents)) < set(test)


def test_an_added_image_moves_no_other_one(tmp_path):
    contents = tree(count=50)
    before = build(write(tmp_path / "before.zip", contents), test_fraction=0.3)
    more = {**contents, **{f"ant/new{i}.png": encoded(picture(5000 + i)) for i in range(30)}}
    after = build(write(tmp_path / "after.zip", more), test_fraction=0.3)
    assert set(paths(before, "test", contents)) == set(paths(after, "test", more)) & set(contents)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_neither_split_is_ever_empty(tmp_path, fraction):
    contents = {f"{i}.png": encoded(picture(i)) for i in range(2)}
    data = build(write(tmp_path / "images", contents), test_fraction=fraction)
    assert len(data.train) == len(data.test) == 1


def test_a_link_back_to_a_folder_above_ends(tmp_path):
    contents = tree(count=4)
    path = write(tmp_path / "images", contents)
    (path / "ant" / "loop").symlink_to(path, target_is_directory=True)
    data = build(path)
    assert len(data.train) + len(data.test) == 8


# --------------------------------------------------------------------------------------------------------------------
# Pixels
# --------------------------------------------------------------------------------------------------------------------

FORMATS = {"png": "PNG", "bmp": "BMP", "tif": "TIFF", "tiff": "TIFF", "webp": "WEBP", "gif": "GIF"}


@pytest.mark.parametrize("suffix", FORMATS)
def test_lossless_formats_keep_their_pixels(suffix):
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    image = picture(0).quantize(200).convert("RGB") if suffix == "gif" else picture(0)
    result = decode.Decoder(8, 3)(encoded(image, FORMATS[suffix], **options))
    assert result.dtype == torch.uint8
    assert torch.equal(result, torch.from_numpy(np.array(image)).permute(2, 0, 1))


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG", "PNG", *FORMATS])
def test_every_suffix_is_read(tmp_path, suffix):
    kind = {"jpg": "JPEG", "jpeg": "JPEG"}.get(suffix.lower()) or FORMATS[suffix.lower()]
    path = write(tmp_path / "images", {f"{i}.{suffix}": encoded(picture(i), kind) for i in range(4)})
    data = build(path)
    assert len(data.train) + len(data.test) == 4


def test_a_jpeg_is_close_to_what_was_saved():
    smooth = picture(0, 3, 3).resize((32, 32), Image.Resampling.BICUBIC)
    result = decode.Decoder(32, 3)(encoded(smooth, "JPEG", quality=95))
    saved = torch.from_numpy(np.array(smooth)).permute(2, 0, 1)
    assert (result.double() - saved.double()).abs().mean() < 4


def test_the_centre_is_cropped_on_either_side():
    left, middle, right = (
        Image.new("RGB", size, colour) for size, colour in [((4, 8), "red"), ((8, 8), "lime"), ((4, 8), "blue")]
    )
    wide = Image.new("RGB", (16, 8))
    for image, x in ((left, 0), (middle, 4), (right, 12)):
        wide.paste(image, (x, 0))
    lime = torch.tensor([0, 255, 0], dtype=torch.uint8).view(3, 1, 1).expand(3, 8, 8)
    assert torch.equal(decode.Decoder(8, 3)(encoded(wide)), lime)
    assert torch.equal(decode.Decoder(8, 3)(encoded(wide.transpose(Image.Transpose.ROTATE_90))), lime)


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    result = decode.Decoder(8, 1)(encoded(Image.fromarray(stripes)))
    assert (result.double() - 127.5).abs().max() < 8  # without it every pixel is 0 or 255


def test_a_small_image_is_enlarged():
    result = decode.Decoder(16, 3)(encoded(Image.new("RGB", (4, 4), (10, 20, 30))))
    assert torch.equal(result, torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1).expand(3, 16, 16))


def test_gray_from_colour_is_luma_and_colour_from_gray_repeats():
    colour = decode.Decoder(8, 1)(encoded(Image.new("RGB", (8, 8), (200, 100, 50))))
    assert colour.shape == (1, 8, 8)
    assert colour.double().mean().item() == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=1)
    gray = decode.Decoder(8, 3)(encoded(Image.new("L", (8, 8), 77)))
    assert (gray == 77).all()
    assert gray.shape == (3, 8, 8)


def test_transparency_is_laid_on_white():
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half.paste((0, 0, 255, 255), (0, 0, 4, 8))
    palette = picture(0).quantize(16)
    clear = torch.from_numpy(np.array(palette)) == 3
    result = decode.Decoder(8, 3)(encoded(half))
    assert result[:, 0, 0].tolist() == [0, 0, 255]
    assert result[:, 0, 7].tolist() == [255, 255, 255]
    shown = decode.Decoder(8, 3)(encoded(palette, transparency=3))
    assert (shown[:, clear] == 255).all()
    opaque = torch.from_numpy(np.array(palette.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(shown[:, ~clear], opaque[:, ~clear])


def test_sixteen_bit_gray_is_scaled_not_clipped():
    values = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    result = decode.Decoder(8, 1)(encoded(Image.fromarray(values)))
    assert torch.equal(result[0], torch.from_numpy(np.round(values / 257).astype(np.uint8)))


def test_the_orientation_of_the_camera_is_applied():
    image = Image.new("RGB", (8, 8), "black")
    image.paste((255, 255, 255), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # rotated by half a turn
    upright = decode.Decoder(8, 1)(encoded(image, "PNG", exif=exif))
    assert upright[0, :4].max() == 0
    assert upright[0, 4:].min() == 255


@pytest.mark.parametrize("cache", [True, False])
def test_flips_are_examples_of_their_own_in_training_alone(tmp_path, cache):
    path = write(tmp_path / "images", tree())
    plain, flipped = build(path, cache=cache), build(path, cache=cache, horizontal_flip=True)
    count = len(plain.train)
    values, labels = everything(plain.train)
    both, both_labels = everything(flipped.train)
    assert torch.equal(both, torch.cat([values, values.flip(-1)]))
    assert torch.equal(both_labels, labels.repeat(2))
    mixed, _ = flipped.train.__getitems__([count + 3, 3, 0])
    assert torch.equal(mixed, torch.stack([values[3].flip(-1), values[3], values[0]]))
    assert torch.equal(everything(flipped.test)[0], everything(plain.test)[0])


def test_lazy_examples_travel_to_worker_processes(tmp_path):
    lazy = build(write(tmp_path / "images.zip", tree()), cache=False).train
    copy = pickle.loads(pickle.dumps(lazy))
    assert torch.equal(everything(copy)[0], everything(lazy)[0])
    loader = torch.utils.data.DataLoader(lazy, batch_size=10, num_workers=2, collate_fn=lambda batch: batch)
    values = torch.cat([values for values, _ in loader])
    assert torch.equal(values, everything(lazy)[0])


def test_a_split_beyond_the_budget_stays_on_disk(tmp_path, monkeypatch):
    path = write(tmp_path / "images", tree())
    assert type(build(path).train) is not type(build(path, cache=False).train)
    monkeypatch.setattr(image_folder, "CACHE_BYTES", 8 * 8 * 3 * 10)
    assert type(build(path).train) is type(build(path, cache=False).train)


def test_the_lazy_fingerprint_follows_content_and_knobs(tmp_path):
    contents = tree()
    path = write(tmp_path / "one.zip", contents)
    name = paths(build(path), "train", contents)[0]
    other = write(tmp_path / "other.zip", {**contents, name: encoded(picture(777))})
    prints = {
        build(path, cache=False).train.fingerprint(),
        build(other, cache=False).train.fingerprint(),
        build(path, cache=False, size=4).train.fingerprint(),
        build(path, cache=False, channels=1).train.fingerprint(),
    }
    assert len(prints) == 4
    assert build(path, cache=False).train.fingerprint() in prints


# --------------------------------------------------------------------------------------------------------------------
# Bad input
# --------------------------------------------------------------------------------------------------------------------


def claims(width, height):
    """A PNG of a few bytes whose header claims any size."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


GOOD = encoded(picture(0, 64, 64))
CORRUPT = {
    "empty": b"",
    "text": b"this is no image",
    "truncated": GOOD[: len(GOOD) // 2],
    "damaged": GOOD[:60] + bytes(40) + GOOD[100:],
    "bomb": claims(20_000, 20_000),
    "large": claims(10_001, 10_001),
    "floats": encoded(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
}


def spoil(contents, split_of, content, count=1):
    """The contents with the first images of the training split replaced, and their names."""
    names = [name for name in contents if name in split_of][:count]
    return {**contents, **dict.fromkeys(names, content)}, names


@pytest.fixture
def spoiled(tmp_path):
    """A function that writes a tree of which some training images are corrupt."""
    contents = tree()
    training = set(paths(build(write(tmp_path / "sound", contents)), "train", contents))

    def make(content, where="images", count=1):
        broken, names = spoil(contents, training, content, count)
        return write(tmp_path / where, broken), names, contents

    return make


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("kind", CORRUPT)
def test_a_corrupt_image_stops_with_its_path(spoiled, kind, cache):
    path, (name,), _ = spoiled(CORRUPT[kind])
    with pytest.raises(ConfigError, match=rf"{name} .*data\.on_error=skip"):
        everything(build(path, cache=cache).train)


@pytest.mark.parametrize("where", ["images", "images.zip"])
def test_in_memory_corrupt_images_are_left_out_and_counted(spoiled, caplog, where):
    path, names, contents = spoiled(CORRUPT["text"], where, count=3)
    data = build(path, on_error="skip")
    with caplog.at_level(logging.WARNING):
        found = paths(data, "train", contents)
    assert set(found).isdisjoint(names)
    assert len(found) + len(names) + len(data.test) == len(contents)
    labels = everything(data.train)[1]
    assert [data.class_names[label] for label in labels] == [name.split("/")[0] for name in found]
    assert f"skipped 3 of {len(found) + 3} images" in caplog.text
    assert all(name in caplog.text for name in names)


def test_asked_for_one_at_a_time_a_corrupt_image_gives_way_to_the_next(spoiled, caplog):
    path, names, _ = spoiled(CORRUPT["truncated"], count=2)
    sound, skipping = build(path.parent / "sound", cache=False).train, build(path, cache=False, on_error="skip").train
    assert len(skipping) == len(sound)
    values, labels = everything(sound)
    expected = [2, 2, *range(2, len(sound))]
    for _ in range(2):
        found, found_labels = everything(skipping)
        assert torch.equal(found, values[expected])
        assert torch.equal(found_labels, labels[expected])
    assert torch.equal(skipping.__getitems__([1])[0], values[[2]])
    assert all(caplog.text.count(f"{name} ") == 1 for name in names)


@pytest.mark.parametrize("cache", [True, False])
def test_a_split_of_corrupt_images_alone_is_refused(tmp_path, cache):
    path = write(tmp_path / "images", {f"{i}.png": b"x" for i in range(5)})
    with pytest.raises(ConfigError, match=r"none of \d images is readable"):
        everything(build(path, cache=cache, on_error="skip").train)


def test_a_member_with_a_wrong_checksum_is_corrupt(tmp_path):
    contents = tree()
    path, name = tmp_path / "images.zip", "ant/000.png"
    with zipfile.ZipFile(path, "w") as archive:  # stored, so that a byte of the picture can be changed in place
        for member, content in contents.items():
            archive.writestr(member, content)
    path.write_bytes(path.read_bytes().replace(contents[name][-30:-20], b"0123456789"))
    with pytest.raises(ConfigError, match=rf"{name} \(Bad CRC-32"):
        both_splits(build(path))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "LARGEST_MEMBER", 1_000_000)
    path = write(tmp_path / "images.zip", {**tree(), "ant/bomb.png": bytes(2_000_000)})
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(
        zipfile.ZipFile,
        "read",
        lambda archive, name: pytest.fail("unpacked") if "bomb" in name else archive.open(name).read(),
    )
    with pytest.raises(ConfigError, match=r"bomb\.png \(it unpacks to 2,000,000 bytes"):
        both_splits(build(path))


def test_the_names_in_a_zip_never_become_files(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    members = {"../../escaped.png": encoded(picture(1)), "/wasp/absolute.png": encoded(picture(2)), **tree(count=3)}
    path = write(home / "images.zip", members)
    data = build(path, cache=False)
    assert data.class_names == ("ant", "bee", "wasp")
    assert len(everything(data.train)[0]) + len(everything(data.test)[0]) == 7
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["images.zip"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such path"),
        (lambda path: path.mkdir(), "holds no images"),
        (lambda path: write(path, {"a/notes.txt": b"x"}), "holds no images"),
        (lambda path: path.write_bytes(b"neither"), "cannot be read as a zip"),
        (lambda path: path.write_bytes(GOOD), "cannot be read as a zip"),
    ],
)
def test_a_path_that_holds_no_images_is_refused(tmp_path, make, message):
    make(tmp_path / "images")
    with pytest.raises(ConfigError, match=message) as error:
        _ = build(tmp_path / "images").train
    assert str(tmp_path / "images") in str(error.value)


def test_an_empty_and_a_truncated_zip_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no images"):
        _ = build(write(tmp_path / "empty.zip", {})).train
    whole = write(tmp_path / "whole.zip", tree()).read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"half\.zip .*cannot be read as a zip"):
        _ = build(tmp_path / "half.zip").train


@pytest.mark.parametrize("knobs", [{"channels": 2}, {"size": 0}, {"test_fraction": 0.0}, {"on_error": "ignore"}])
def test_knobs_out_of_range_are_named(tmp_path, knobs):
    with pytest.raises(ConfigError, match=rf"data\.{next(iter(knobs))}="):
        build(tmp_path, **knobs)


def test_a_single_image_is_in_both_splits(tmp_path):
    write(tmp_path, {"only.png": GOOD})
    data = build(tmp_path)
    assert len(data.train) == len(data.test) == 1
