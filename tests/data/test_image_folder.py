"""Folders and zips of images."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import struct
import time
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion_fw as dfw
from diffusion_fw.data import image_folder
from diffusion_fw.data.formats import decode, image_examples, image_files
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


def build(path, **parameters):
    return dfw.build("data", "image_folder", **{"path": str(path), "size": 8, **parameters})


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


@pytest.mark.parametrize(
    ("train", "held"),
    [
        ("train", "val"),
        ("Train", "Test"),
        ("TRAIN", "VALID"),
        ("training", "validation"),
        ("training_set", "test_set"),
        ("train2017", "val2017"),
        ("trainset", "evaluation"),
        ("train-images", "dev"),
    ],
)
@pytest.mark.parametrize("above", ["", "download/"])
def test_folders_named_like_splits_are_the_splits(tmp_path, train, held, above):
    training, held_out = tree(count=3, folder=f"{above}{train}/"), tree(("bee",), count=2, folder=f"{above}{held}/")
    held_out = {name: encoded(picture(1000 + seed)) for seed, name in enumerate(held_out)}
    data = build(write(tmp_path / "images.zip", {**training, **held_out}))
    assert data.class_names == ("ant", "bee")
    assert paths(data, "train", training) == sorted(training)
    assert paths(data, "test", held_out) == sorted(held_out)
    assert data.division == f"the folders {train} and {held}"


@pytest.mark.parametrize(
    "others", [("cat/001.png",), ("test/cat/001.png",), ("test/001.png",), ("cat/001.png", "dog/001.png")]
)
@pytest.mark.parametrize("held", ["val/ant/001.png", "Validation/ant/deep/001.png"])
def test_held_out_images_without_training_images_are_refused(tmp_path, held, others):
    contents = {name: encoded(picture(seed)) for seed, name in enumerate([held, *others])}
    with pytest.raises(ConfigError, match=r"images are held out in .*, but no folder is named train"):
        _ = build(write(tmp_path / "images", contents)).train


def test_a_split_whose_files_are_no_images_is_an_error(tmp_path):
    contents = {**tree(count=3, folder="val/"), "train/ant/001.heic": b"x"}
    with pytest.raises(ConfigError, match=r"the split of train/ant/001\.heic holds no image"):
        _ = build(write(tmp_path / "images", contents)).train


@pytest.mark.parametrize("names", [("train", "bus", "car"), ("valid", "invalid"), ("test", "control")])
def test_a_class_may_be_named_like_a_split_and_that_is_said(tmp_path, names, caplog):
    data = build(write(tmp_path / "images", tree(names, count=10)))
    assert data.class_names == tuple(sorted(names))
    assert f"'{names[0]}' is a class, not a split" in caplog.text


@pytest.mark.parametrize(
    "sibling", [("2024/a/0.png", "2024/b/0.png"), ("2024/c/0.png",), ("2024/0.png",), ("c/0.png",)]
)
def test_no_sibling_changes_the_classes_or_the_split(tmp_path, sibling):
    contents = tree(("a", "b"), count=50, folder="2023/")
    more = {**contents, **{name: encoded(picture(9000 + seed)) for seed, name in enumerate(sibling)}}
    before, after = (
        build(write(tmp_path / f"{i}.zip", images), test_fraction=0.3) for i, images in enumerate((contents, more))
    )
    assert before.class_names == ("a", "b")
    assert set(after.class_names) >= {"a", "b"}
    for split in ("train", "test"):
        first, then = paths(before, split, contents), paths(after, split, more)
        assert [name for name in then if name in contents] == first
        labels = dict(zip(then, everything(after.load(split))[1].tolist(), strict=True))
        assert all(after.class_names[labels[name]] == name.split("/")[1] for name in first)


def test_the_classes_may_be_the_outermost_folders(tmp_path):
    contents = {
        f"{cls}/clip{i}/{j}.png": encoded(picture(100 * i + j)) for cls in "ab" for i in (1, 2) for j in range(9)
    }
    path = write(tmp_path / "images", contents)
    assert build(path).class_names == ("clip1", "clip2")
    assert build(path, class_level=0).class_names == ("a", "b")
    with pytest.raises(ConfigError, match=r"data\.class_level=2: a/clip1/0\.png is in no folder of that level"):
        _ = build(path, class_level=2).class_names


def test_images_of_one_name_are_split_by_their_class_folder(tmp_path):
    names = [f"{person:03d}/{side}/face.png" for person in range(40) for side in ("face", "face/face")]
    contents = {name: encoded(picture(seed)) for seed, name in enumerate(names)}
    path = write(tmp_path / "images", contents)
    with pytest.raises(ConfigError, match=r"all images have the name face\.png .*data\.class_level=0"):
        _ = build(path).train
    data = build(path, class_level=0, test_fraction=0.3)
    assert 2 < len(data.test) < 25


def test_sub_folders_of_a_class_belong_to_it(tmp_path, caplog):
    contents = {**tree(count=10), "ant/more/x.png": encoded(picture(700)), "ant/more/deep/y.png": encoded(picture(701))}
    data = build(write(tmp_path / "images", contents))
    assert data.class_names == ("ant", "bee")
    assert len(data.train) + len(data.test) == 22
    assert "2 images in sub-folders of a class belong to that class, such as 'ant/more/" in caplog.text


def test_classes_counts_and_splits_are_told(tmp_path):
    contents = {**tree(count=3, folder="Train/"), **tree(("bee",), count=2, folder="val/")}
    data = build(write(tmp_path / "images", contents))
    assert data.describe() == (
        "6 training, 2 held-out, shape (3, 8, 8), split: the folders Train and val, "
        "2 classes (training+held-out): ant: 3+0, bee: 3+2"
    )
    flipped = build(tmp_path / "images", horizontal_flip=True, cache=False)
    assert "bee: 6+2" in flipped.describe()
    plain = build(write(tmp_path / "plain", {f"{i}.png": encoded(picture(i)) for i in range(20)}))
    assert plain.describe().endswith("split: about 0.1 held out by a hash of the names, no classes")


def test_a_class_is_never_held_out_as_a_whole(tmp_path):
    contents = {**tree(count=30), **{f"rare{i}/0.png": encoded(picture(500 + i)) for i in range(20)}}
    data = build(write(tmp_path / "images.zip", contents), test_fraction=0.5)
    assert data.num_classes == 22
    assert len(data.train) + len(data.test) == 80
    assert min(data.class_counts) == 1
    assert 15 < len(data.test) < 45


def test_classes_of_single_images_cannot_be_held_out(tmp_path):
    contents = {f"{i}/{i}.png": encoded(picture(i)) for i in range(5)}
    with pytest.raises(ConfigError, match="no image can be held out, as each class has a single one"):
        _ = build(write(tmp_path / "images", contents)).train


def test_a_held_out_class_that_is_not_trained_is_refused(tmp_path):
    contents = {**tree(count=3, folder="train/"), **tree(("wasp",), count=2, folder="val/")}
    with pytest.raises(ConfigError, match=r"val/wasp/000\.png is held out, but no training image is of its class wasp"):
        _ = build(write(tmp_path / "images", contents)).train


@pytest.mark.parametrize("cache", [True, False])
def test_a_class_without_a_readable_training_image_is_no_class(tmp_path, cache, caplog):
    contents = {
        **tree(count=3, folder="train/"),
        **{f"train/{name}/{i}.png": b"damaged" for name in ("Z", "fly") for i in range(2)},
        **{f"test/{name}/{i}.png": encoded(picture(600 + i)) for name in ("ant", "bee", "fly") for i in range(2)},
        "train/bee/000.png": b"damaged",
    }
    data = build(write(tmp_path / "images", contents), on_error="skip", cache=cache)
    assert data.class_names == ("ant", "bee")
    assert sorted(everything(data.train)[1].unique().tolist()) == [0, 1]
    assert everything(data.test)[1].tolist() == [0, 0, 1, 1]
    assert "left out classes without a readable training image: 4 of the class 'fly'" in caplog.text
    assert "2 of the class 'Z'" in caplog.text


# --------------------------------------------------------------------------------------------------------------------
# What is left out
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["images", "images.zip"])
def test_files_that_are_no_images_are_counted_and_named_in_one_line(tmp_path, where, caplog):
    extra = {
        **{f"ant/{i}.heic": b"x" for i in range(3)},
        **{"notes.txt": b"x", "bee/inner.zip": b"x", ".DS_Store": b"x", "__MACOSX/ant/._1.png": b"x", "README": b"x"},
    }
    data = build(write(tmp_path / where, {**tree(count=5), **extra}))
    assert len(data.train) + len(data.test) == 10
    (line,) = [record.getMessage() for record in caplog.records]
    assert "read 10 images, left out " in line
    for text in ("3 .heic (such as 'ant/0.heic')", "1 .txt (such as 'notes.txt')", "1 .zip (such as 'bee/inner.zip')"):
        assert text in line
    assert "2 hidden (such as '.DS_Store')" in line
    assert "1 of other names (such as 'README')" in line


def test_a_folder_of_other_files_is_an_error_that_names_them(tmp_path):
    path = write(tmp_path / "images", {"a/1.heic": b"x", "a/2.heic": b"x"})
    with pytest.raises(ConfigError, match=r"holds no images but 2 \.heic \(such as 'a/1\.heic'\); their names end in"):
        _ = build(path).train


def test_names_with_backslashes_are_paths(tmp_path):
    contents = tree()
    slashes = build(write(tmp_path / "a.zip", contents))
    backslashes = build(
        write(tmp_path / "b.zip", {name.replace("/", "\\"): content for name, content in contents.items()})
    )
    assert backslashes.class_names == ("ant", "bee")
    assert backslashes.test.fingerprint() == slashes.test.fingerprint()


def test_a_member_that_is_named_twice_is_told(tmp_path, caplog):
    path = write(tmp_path / "images.zip", tree(count=3))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("ant/000.png", encoded(picture(99)))
    data = build(path)
    assert len(data.train) + len(data.test) == 6
    assert "1 named twice (such as 'ant/000.png')" in caplog.text


def test_a_second_way_to_a_folder_is_read_too_and_told(tmp_path, caplog):
    contents = tree(count=10)
    path = write(tmp_path / "images", contents)
    (path / "wasp").symlink_to("ant", target_is_directory=True)
    data = build(path)
    assert data.class_names == ("ant", "bee", "wasp")
    assert len(data.train) + len(data.test) == 30
    assert "1 folders are links to others that are read, such as 'wasp' to 'ant'" in caplog.text


def test_links_that_multiply_the_ways_to_a_folder_end(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "MOST_SECOND_WAYS", 100)
    path = write(tmp_path / "images", tree(count=1))
    for depth in range(30):
        (path / f"level{depth}").mkdir()
        for way in "xy":
            (path / f"level{depth}" / way).symlink_to(path / f"level{depth + 1}", target_is_directory=True)
    with pytest.raises(ConfigError, match="more than 100 links lead to known folders"):
        _ = build(path).train


def test_what_is_no_regular_file_is_left_out_and_named(tmp_path, caplog):
    path = write(tmp_path / "images", tree(count=5))
    os.mkfifo(path / "ant" / "pipe.png")
    (path / "ant" / "zero.png").symlink_to("/dev/zero")
    (path / "bee" / "gone.png").symlink_to("nowhere.png")
    data = build(path)
    assert len(data.train) + len(data.test) == 10
    assert "3 links to nothing, pipes or devices (such as 'ant/pipe.png')" in caplog.text


@pytest.mark.parametrize("path", ["/dev/zero", "pipe", "/dev/null"])
def test_a_path_that_is_neither_folder_nor_file_is_refused_at_once(tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"it is a (pipe|device), not a regular file"):
        _ = build(tmp_path / path).train


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

FORMATS = {
    **{"png": "PNG", "apng": "PNG", "bmp": "BMP", "dib": "BMP", "tif": "TIFF", "tiff": "TIFF", "webp": "WEBP"},
    **{"gif": "GIF", "ppm": "PPM", "pnm": "PPM"},
}
LOSSY = {
    **dict.fromkeys(("jpg", "jpeg", "JPG", "jpe", "jfif", "pjpeg"), "JPEG"),
    **({"avif": "AVIF"} if "AVIF" in decode.FORMATS else {}),
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_lossless_formats_keep_their_pixels(suffix):
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    image = picture(0).quantize(200).convert("RGB") if suffix == "gif" else picture(0)
    result = decode.Decoder(8, 3)(encoded(image, FORMATS[suffix], **options))
    assert result.dtype == torch.uint8
    assert torch.equal(result, torch.from_numpy(np.array(image)).permute(2, 0, 1))


@pytest.mark.parametrize("suffix", [*LOSSY, "PNG", *FORMATS])
def test_every_suffix_is_read(tmp_path, suffix):
    kind = LOSSY.get(suffix) or FORMATS[suffix.lower()]
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


def tiff(values, bits, photometric=1, sample_format=1):
    """A gray TIFF of 8x8 pixels, uncompressed."""
    if bits == 12:
        pairs = values.reshape(-1, 2).tolist()
        data = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs)
    else:
        data = values.tobytes()
    # Width, height, bits, no compression, photometric, offset, channels, rows, bytes, sample format.
    tags = {256: 8, 257: 8, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: 8, 279: len(data)}
    tags[339] = sample_format
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


SQUARE = np.arange(64).reshape(8, 8)


def test_gray_of_twelve_bits_is_scaled():
    values = SQUARE * 65
    expected = torch.from_numpy(np.round(values / 4095 * 255).astype(np.uint8))
    assert torch.equal(decode.Decoder(8, 1)(tiff(values, 12))[0], expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_where_zero_is_white_gray_is_inverted(bits):
    values = (SQUARE * (2**bits // 64)).astype(f"<u{bits // 8}")
    plain, inverted = (decode.Decoder(8, 1)(tiff(values, bits, photometric)) for photometric in (1, 0))
    assert torch.equal(inverted, 255 - plain)
    assert plain.max() > 200


@pytest.mark.parametrize("kind", ["<i1", "<i2", "<i4", "<u4"])
def test_integers_of_unknown_range_are_refused(tmp_path, kind):
    bits, signed = 8 * int(kind[2]), kind[1] == "i"
    content = tiff(SQUARE.astype(kind), bits, sample_format=2 if signed else 1)
    path = write(tmp_path / "images", {f"{i}.tif": content for i in range(3)})
    with pytest.raises(ConfigError, match=r"\d\.tif \(its pixels are signed integers or have 32 bits"):
        _ = build(path).train


def png_of(values, bits, colour_type=0, transparent=None):
    """A PNG from rows of packed samples, with tRNS if there is a transparent colour."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes(row) for row in values)
    clear = b"" if transparent is None else chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    header = struct.pack(">IIBBBBB", 8, 8, bits, colour_type, 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + clear + end


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_gray_is_laid_on_white(bits, channels):
    values = SQUARE % min(2**bits, 64) * (257 if bits == 16 else 1)
    samples = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(8, 8, 2), axis=2)[:, :, 16 - bits :]
    packed = np.packbits(samples.reshape(8, -1), axis=1)
    plain = decode.Decoder(8, channels)(png_of(packed, bits))
    laid = decode.Decoder(8, channels)(png_of(packed, bits, transparent=[int(values[0, 1])]))
    clear = torch.from_numpy(values == values[0, 1])
    assert (laid[:, clear] == 255).all()
    assert (plain[:, clear] < 255).all()
    assert torch.equal(laid[:, ~clear], plain[:, ~clear])


def test_a_transparent_colour_of_which_half_the_bits_are_read_is_refused():
    content = png_of(np.zeros((8, 48), np.uint8), 16, colour_type=2, transparent=[1, 0, 0])
    with pytest.raises(decode.CorruptImageError, match="transparent colour of 16 bits"):
        decode.Decoder(8, 3)(content)


MODES = {
    "1": ["PNG", "TIFF", "BMP", "PPM"],
    "L": ["PNG", "TIFF", "BMP", "PPM"],
    "LA": ["PNG", "TIFF"],
    "P": ["PNG", "TIFF", "BMP", "GIF"],
    "PA": ["TIFF"],
    "RGB": ["PNG", "TIFF", "BMP", "PPM"],
    "RGBA": ["PNG", "TIFF"],
    "RGBX": ["TIFF"],
    "CMYK": ["TIFF"],
    "YCbCr": ["TIFF"],
}


@pytest.mark.parametrize(("mode", "format"), [(mode, format) for mode, formats in MODES.items() for format in formats])
def test_every_mode_shows_its_colours(mode, format):
    flags = np.where(SQUARE[..., None] % 2, [255, 255, 255], [0, 0, 0]).astype(np.uint8)
    image = Image.fromarray(flags).convert(mode)
    content = encoded(image, format)
    try:
        Image.open(io.BytesIO(content)).load()
    except OSError:
        pytest.skip("this version of Pillow cannot read what it wrote")
    for channels in (1, 3):
        result = decode.Decoder(8, channels)(content)
        difference = result.int() - torch.from_numpy(flags[..., :channels].astype(int)).permute(2, 0, 1)
        assert difference.abs().max() <= 1


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBA"])
def test_every_mode_with_transparency_is_laid_on_white(mode):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    result = decode.Decoder(8, 3)(encoded(image.convert(mode), "TIFF"))
    assert (result[:, :, :4] == 255).all()
    assert (result[:, :, 4:] == 0).all()


def test_a_large_image_is_converted_strip_by_strip(monkeypatch):
    half = Image.new("RGBA", (20, 30))
    half.putdata([(i % 256, i // 3, 7, i % 251) for i in range(600)])
    whole = decode.Decoder(30, 3)(encoded(half))
    monkeypatch.setattr(decode, "STRIP", 45)
    assert torch.equal(decode.Decoder(30, 3)(encoded(half)), whole)


def test_the_bytes_that_threads_decode_at_once_have_a_limit(tmp_path, monkeypatch):
    pixels, used = 100 * 100, []

    class Watched(decode.Budget):
        @contextlib.contextmanager
        def take(self, amount):
            with super().take(amount):
                used.append(self.used)
                time.sleep(0.01)
                yield

    monkeypatch.setattr(decode, "MEMORY", Watched(2 * decode.BYTES_PER_PIXEL * pixels))
    monkeypatch.setattr(image_examples, "THREADS", 8)
    path = write(tmp_path / "images", {f"{i}.png": encoded(picture(i, 100, 100)) for i in range(20)})
    assert len(build(path).train) + len(build(path).test) == 20
    assert max(used) == 2 * decode.BYTES_PER_PIXEL * pixels
    # An image that is larger than the limit is decoded alone.
    used.clear()
    monkeypatch.setattr(decode, "MEMORY", Watched(1))
    assert len(build(path).train) + len(build(path).test) == 20
    assert set(used) == {decode.BYTES_PER_PIXEL * pixels}


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "0 bytes"), (b"GIF, no: \x1b[31m", r"it begins with b'GIF, no: \\x1b")]
)
@pytest.mark.parametrize("cache", [True, False])
def test_a_file_that_is_no_image_is_described(tmp_path, content, reason, cache):
    path = write(tmp_path / "images", {f"{i}.png": content for i in range(3)})
    with pytest.raises(ConfigError, match=rf"\.png \({reason}.*\) is not a readable image"):
        everything(build(path, cache=cache).train)


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


def test_the_lazy_fingerprint_follows_content_and_parameters(tmp_path):
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


def with_checksum(content, wanted):
    """The content and four more bytes, after which its CRC-32 is the wanted one.

    The checksum is affine in these bytes, so they solve 32 linear equations over GF(2).
    """
    start = zlib.crc32(content + bytes(4))
    rows = []
    for bit in range(32):
        image, chosen = zlib.crc32(content + (1 << bit).to_bytes(4, "little")) ^ start, 1 << bit
        for high, other, others in rows:
            if image >> high & 1:
                image, chosen = image ^ other, chosen ^ others
        rows.append((image.bit_length() - 1, image, chosen))
    rest, found = start ^ wanted, 0
    for high, image, chosen in rows:
        if rest >> high & 1:
            rest, found = rest ^ image, found ^ chosen
    return content + found.to_bytes(4, "little")


@pytest.mark.parametrize("where", ["images", "images.zip"])
def test_the_lazy_fingerprint_is_of_content_wherever_it_lies(tmp_path, where):
    contents = tree()
    changed = {name: encoded(picture(1000 + seed)) for seed, name in enumerate(contents)}
    longest = max(map(len, [*contents.values(), *changed.values()]))
    prints = []
    for place, images in (("a", contents), ("b", contents), ("c", changed)):
        padded = {name: content.ljust(longest, b"\0") for name, content in images.items()}
        (tmp_path / place).mkdir()
        path = write(tmp_path / place / where, padded)
        for file in path.rglob("*.png") if path.is_dir() else [path]:
            os.utime(file, (0, 0))
        prints.append(build(path, cache=False).train.fingerprint())
    assert prints[0] == prints[1] != prints[2]


def test_images_of_equal_sizes_and_checksums_have_fingerprints_of_their_own(tmp_path):
    contents = tree()
    changed = {name: encoded(picture(1000 + seed)) for seed, name in enumerate(contents)}
    longest = max(map(len, [*contents.values(), *changed.values()]))
    archives = {}
    for place, images in (("a", contents), ("b", changed)):
        same = {name: with_checksum(content.ljust(longest, b"\0"), 0x12345678) for name, content in images.items()}
        archives[place] = write(tmp_path / f"{place}.zip", same)
        with zipfile.ZipFile(archives[place]) as archive:
            assert {(member.CRC, member.file_size) for member in archive.infolist()} == {(0x12345678, longest + 4)}
    first, second = (build(path, cache=False).train for path in archives.values())
    assert not torch.equal(everything(first)[0], everything(second)[0])
    assert first.fingerprint() != second.fingerprint()


def test_the_fingerprint_of_huge_data_reads_a_sample(tmp_path, monkeypatch):
    path = write(tmp_path / "images.zip", tree())
    whole = build(path, cache=False).train.fingerprint()
    monkeypatch.setattr(image_examples, "HASHED_FILES", 5)
    read = []
    monkeypatch.setattr(image_files.Zip, "read", lambda files, name: read.append(name) or b"")
    assert build(path, cache=False).train.fingerprint() != whole
    assert len(read) == 5


def test_a_zip_that_was_written_again_is_read_again(tmp_path):
    contents = tree()
    changed = {name: encoded(picture(1000 + seed)) for seed, name in enumerate(contents)}
    path = tmp_path / "images.zip"
    assert paths(build(write(path, contents)), "train", contents)
    assert paths(build(write(path, changed)), "train", changed)


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


@pytest.mark.parametrize("parameters", [{"channels": 2}, {"size": 0}, {"test_fraction": 0.0}, {"on_error": "ignore"}])
def test_parameters_out_of_range_are_named(tmp_path, parameters):
    with pytest.raises(ConfigError, match=rf"data\.{next(iter(parameters))}="):
        build(tmp_path, **parameters)


def test_a_single_image_is_in_both_splits(tmp_path):
    write(tmp_path, {"only.png": GOOD})
    data = build(tmp_path)
    assert len(data.train) == len(data.test) == 1
    assert data.num_classes == 0


@pytest.mark.parametrize(
    ("name", "key"), [("image_folder", "path"), ("mnist", "root"), ("cifar10", "root"), ("webdataset", "shards")]
)
def test_the_home_of_a_user_that_does_not_exist_is_no_such_path(name, key):
    given = {key: "~nobody-of-this-name/x", **({"size": 8} if name in ("image_folder", "webdataset") else {})}
    with pytest.raises(ConfigError, match=rf"data\.{key}=~nobody-of-this-name/x"):
        _ = dfw.build("data", name, **given).train
