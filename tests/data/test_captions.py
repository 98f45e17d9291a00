"""Captions and numbers of the users' own images: which file says what of which image, and what is refused."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion_fw as dfw
from diffusion_fw.data import image_folder
from diffusion_fw.data.formats import descriptions
from diffusion_fw.registry import ConfigError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def png(number):
    """An image whose pixels are all its number."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = {f"{split}/{number}.png": png(number) for split, first in (("train", 0), ("test", 10)) for number in
          range(first, first + 4)}  # fmt: skip
TEXTS = {name: f"number {name.split('/')[1][:-4]}" for name in IMAGES}


def build(tmp_path, more, **settings):
    """Data of eight images and further files, of a folder or a zip."""
    path = tmp_path / settings.pop("place", "images")
    files = {**IMAGES, **{name: text.encode() if isinstance(text, str) else text for name, text in more.items()}}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return dfw.build("data", "image_folder", path=str(path), **{"size": 8, **settings})


def shown(data, split):
    """(the number in the pixels, the caption) of each example."""
    examples = data.originals if split == "train" else data.test
    values, _ = examples.__getitems__(range(len(examples)))
    return list(zip(values[:, 0, 0, 0].tolist(), data.captions(split), strict=True))


def wanted(split):
    return [(int(name.split("/")[1][:-4]), text) for name, text in TEXTS.items() if name.startswith(split)]


def csv_of(texts, prefix=""):
    return "file_name,text\n" + "".join(f'{name.removeprefix(prefix)},"{text}"\n' for name, text in texts.items())


def jsonl_of(texts, prefix=""):
    rows = ({"file_name": name.removeprefix(prefix), "text": text} for name, text in texts.items())
    return "".join(json.dumps(row) + "\n" for row in rows)


def of_split(texts, split):
    return {name: text for name, text in texts.items() if name.startswith(split)}


FORMS = {
    "csv": {"captions.csv": csv_of(TEXTS)},
    "csv with a mark of Excel": {"captions.csv": b"\xef\xbb\xbf" + csv_of(TEXTS).replace("\n", "\r\n").encode()},
    "jsonl": {"captions.jsonl": jsonl_of(TEXTS)},
    "one of each split": {
        f"{split}/metadata.jsonl": jsonl_of(of_split(TEXTS, split), f"{split}/") for split in ("train", "test")
    },
    "text files": {name.replace(".png", ".txt"): f"{text}\n" for name, text in TEXTS.items()},
    "both": {
        "train/metadata.csv": csv_of(of_split(TEXTS, "train"), "train/"),
        **{name.replace(".png", ".TXT"): text for name, text in of_split(TEXTS, "test").items()},
    },
}


@pytest.mark.parametrize("place", ["images", "images.zip"])
@pytest.mark.parametrize("form", FORMS)
def test_each_image_has_its_caption(tmp_path, caplog, form, place):
    data = build(tmp_path, FORMS[form], place=place)
    for split in ("train", "test"):
        assert shown(data, split) == wanted(split)
    assert data.attributes("train") is None
    assert not caplog.records


@pytest.mark.parametrize("settings", [{"cache": False}, {"horizontal_flip": True}], ids=str)
def test_captions_are_those_of_the_images_however_they_are_held(tmp_path, settings):
    data = build(tmp_path, FORMS["csv"], **settings)
    for split in ("train", "test"):
        assert shown(data, split) == wanted(split)


def test_images_that_a_hash_holds_out_keep_their_captions(tmp_path):
    path = tmp_path / "flat"
    path.mkdir()
    for number in range(30):
        (path / f"{number}.png").write_bytes(png(number))
        (path / f"{number}.txt").write_text(f"number {number}")
    data = dfw.build("data", "image_folder", path=str(path), size=8)
    for split in ("train", "test"):
        assert [caption for _, caption in shown(data, split)] == [f"number {n}" for n, _ in shown(data, split)]
    assert len(data.test) > 0


def test_a_table_counts_before_a_file_of_text(tmp_path):
    more = {"captions.csv": "file_name,text\ntrain/0.png,from the table\n", **FORMS["text files"]}
    assert build(tmp_path, more).captions("train") == ["from the table", "number 1", "number 2", "number 3"]


def test_a_text_may_hold_commas_quotes_and_lines(tmp_path):
    rows = 'file_name,text\ntrain/0.png,"a ""red"", large\nheart\u2028 and more"\n'
    found = build(tmp_path, {"captions.csv": rows}).captions("train")
    assert found == ['a "red", large\nheart\u2028 and more', "", "", ""]


def test_missing_captions_are_counted_in_one_warning(tmp_path, caplog):
    data = build(tmp_path, {"captions.csv": csv_of(dict(list(TEXTS.items())[:3]))})
    for _ in range(2):
        assert data.captions("train") == ["number 0", "number 1", "number 2", ""]
        assert data.captions("test") == [""] * 4
    (record,) = caplog.records
    assert "5 images have no caption, such as train/3.png; they are told none" in record.getMessage()


def test_data_without_captions_have_none(tmp_path, caplog):
    data = build(tmp_path, {})
    assert data.captions("train") is data.captions("test") is None
    assert data.attributes("train") is None
    assert not caplog.records
    # Nor have they where all are empty.
    assert build(tmp_path, {"captions.csv": csv_of(dict.fromkeys(TEXTS, " "))}).captions("train") is None


def test_rows_of_no_image_are_counted_in_one_warning(tmp_path, caplog):
    rows = {**TEXTS, "train/gone.png": "gone", "../../outside.png": "outside"}
    data = build(tmp_path, {"captions.csv": csv_of(rows)})
    assert shown(data, "train") == wanted("train")
    (record,) = caplog.records
    assert "2 rows are of no image, such as captions.csv:10: train/gone.png" in record.getMessage()


def test_unreadable_images_leave_out_their_captions(tmp_path):
    data = build(tmp_path, {**FORMS["csv"], "train/1.png": b"no image"}, on_error="skip")
    assert shown(data, "train") == [row for row in wanted("train") if row[0] != 1]
    again = build(tmp_path, {**FORMS["csv"], "train/1.png": b"no image"}, on_error="skip", cache=False)
    with pytest.raises(ConfigError, match=r"^data\.on_error=skip replaces .* whose caption is another"):
        again.captions("train")


def test_columns_of_numbers_are_attributes_in_the_order_of_their_names(tmp_path, caplog):
    rows = [{"file_name": name, "text": "x", "width": 0.5 * i, "age": i, "by": "me"} for i, name in enumerate(IMAGES)]
    data = build(tmp_path, {"metadata.jsonl": "\n".join(map(json.dumps, rows))})
    found = data.attributes("test")
    assert (found.dtype, found.tolist()) == (torch.float32, [[4, 2.0], [5, 2.5], [6, 3.0], [7, 3.5]])
    assert data.attributes("train").tolist() == [[0, 0.0], [1, 0.5], [2, 1.0], [3, 1.5]]
    (record,) = caplog.records
    assert "metadata.jsonl:1 has columns that are no numbers and not read: by" in record.getMessage()
    table = "file_name,angle\n" + "".join(f"{name},{i}.5\n" for i, name in enumerate(IMAGES))
    numbered = build(tmp_path, {"captions.csv": table}, place="numbered")
    assert numbered.attributes("train").tolist() == [[0.5], [1.5], [2.5], [3.5]]
    assert numbered.captions("train") is None
    source = dfw.build("condition", "attributes")
    assert source.size(numbered) == 1


TOO_LONG = "x" * (descriptions.LONGEST_CAPTION + 1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"captions.csv": "name,text\na,b\n"}, r"captions\.csv:1 must name the columns.*file_name among them.*'name'"),
        ({"captions.csv": ""}, r"captions\.csv:1 must name the columns"),
        ({"captions.csv": "file_name,text,text\n"}, r"captions\.csv:1 must name the columns, once each"),
        ({"captions.csv": "file_name,text\ntrain/0.png,a,b\n"}, r"captions\.csv:2 has 3 values, but the header has 2"),
        ({"captions.csv": 'file_name,text\ntrain/0.png,"a\n'}, r"captions\.csv:2 is no CSV: "),
        ({"captions.csv": "file_name,text\n,b\n"}, r"captions\.csv:2 has no file_name"),
        (
            {"captions.csv": f"file_name,text\ntrain/0.png,{'x' * 200_000}\n"},
            r"captions\.csv:2 is no CSV: field larger",
        ),
        (
            {"captions.csv": f"file_name,text\ntrain/0.png,{TOO_LONG}\n"},
            r"captions\.csv:2: text must be a text of at most",
        ),
        ({"captions.csv": b"file_name,text\ntrain/0.png,\xff\n"}, r"captions\.csv cannot be read: .*text in UTF-8"),
        (
            {"captions.csv": "file_name,text\ntrain/0.png,a\ntrain/0.png,b\n"},
            r"captions\.csv:3 and captions\.csv:2 are both of train/0\.png",
        ),
        (
            {"captions.csv": csv_of(TEXTS), "train/metadata.jsonl": '{"file_name": "0.png", "text": "b"}'},
            r"train/metadata\.jsonl:1 and captions\.csv:2 are both of 0\.png",
        ),
        ({"captions.jsonl": '{"file_name": "train/0.png"\n'}, r"captions\.jsonl:1 is no JSON: "),
        ({"captions.jsonl": "\n[1]\n"}, r"captions\.jsonl:2 is no JSON object"),
        ({"captions.jsonl": "[" * 100_000}, r"captions\.jsonl:1 is no JSON: "),
        ({"captions.jsonl": '{"file_name": ["train/0.png"], "text": "a"}'}, r"captions\.jsonl:1 has no file_name"),
        ({"captions.jsonl": '{"file_name": "train/0.png", "text": 3}'}, r"captions\.jsonl:1: text must be a text"),
        (
            {"captions.csv": "file_name,age\ntrain/0.png,1\ntrain/1.png,old\n"},
            r"captions\.csv:3: age must be a number, as in the first row, but is 'old'",
        ),
        (
            {"captions.csv": "file_name,age\ntrain/0.png,1\ntrain/1.png,\n"},
            r"captions\.csv:3: age must be a number, as in the first row, but is ''",
        ),
        ({"captions.csv": "file_name,age\ntrain/0.png,1\ntrain/1.png,nan\n"}, r"age must be a number.*but is 'nan'"),
        (
            {"captions.jsonl": '{"file_name": "train/0.png", "x": 1}\n{"file_name": "train/1.png", "x": true}'},
            "is True",
        ),
        ({"train/0.txt": TOO_LONG}, r"train/0\.txt cannot be read: it has more than 65,536 bytes"),
        ({"train/0.txt": b"\xff\xfe"}, r"train/0\.txt cannot be read: .*text in UTF-8"),
    ],
)
def test_what_cannot_be_read_is_one_message_with_file_and_line(tmp_path, more, message):
    data = build(tmp_path, more)
    with pytest.raises(ConfigError, match=rf"^data\.path: {message}|^data\.path: .*{message}") as error:
        data.captions("train")
    assert len(str(error.value)) < 1000


def test_numbers_of_some_images_alone_are_refused(tmp_path):
    data = build(tmp_path, {"captions.csv": "file_name,age\ntrain/0.png,1\n"})
    with pytest.raises(
        ConfigError, match=r"3 images, such as train/1\.png, have no numbers age; give each image a row"
    ):
        data.attributes("train")


def test_a_condition_of_text_reads_them(tmp_path, tiny):
    from diffusion_fw.composition.parts import build_conditions

    data = build(tmp_path, FORMS["csv"])
    conditioner = build_conditions(tiny({"data": "emoji", "data.size": 8, "condition": ["text"]}))
    assert conditioner.sources["text"].size(data) == (12, 64)
    _, told = conditioner.examples(data, "test").__getitems__([2])
    words = dfw.build("text_encoder", "hashing")(["number 12"])
    assert torch.equal(told.parts["text"].value, words.value)


def test_files_that_say_nothing_of_images_are_still_left_out_with_a_warning(tmp_path, caplog):
    data = build(tmp_path, {"README.txt": "hello", "train/0.txt": "zero", "notes.csv": "a,b\n"})
    assert data.captions("train")[0] == "zero"
    assert "left out 1 .txt (such as 'README.txt'), 1 .csv" in caplog.text.replace(
        "1 .csv (such as 'notes.csv'), 1 .txt (such as 'README.txt')", "1 .txt (such as 'README.txt'), 1 .csv"
    )


# Shards.


def shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def numbered(first, last):
    found = {}
    for number in range(first, last):
        found |= {f"{number}.txt": f"number {number}\n".encode(), f"{number}.png": png(number)}
    return found


@pytest.mark.parametrize("flip", [False, True])
def test_an_image_of_a_shard_has_the_text_of_its_key(tmp_path, caplog, flip):
    paths = [shard(tmp_path / f"{i}.tar", numbered(10 * i, 10 * i + 10)) for i in range(3)]
    data = dfw.build("data", "webdataset", shards=list(map(str, paths)), size=8, horizontal_flip=flip)
    for _ in range(2):  # The second time from the cached index.
        for split in ("train", "test"):
            assert [caption for _, caption in shown(data, split)] == [f"number {n}" for n, _ in shown(data, split)]
        data = dfw.build("data", "webdataset", shards=list(map(str, paths)), size=8, horizontal_flip=flip)
    assert not caplog.records


def test_shards_without_texts_have_none_and_missing_ones_are_counted(tmp_path, caplog):
    plain = {f"{number}.png": png(number) for number in range(12)}
    path = str(shard(tmp_path / "plain.tar", plain))
    assert dfw.build("data", "webdataset", shards=path, size=8).captions("train") is None
    path = str(shard(tmp_path / "some.tar", {**plain, "3.txt": b"three", "lost.txt": b"of no image"}))
    data = dfw.build("data", "webdataset", shards=path, size=8)
    captions = [caption for split in ("train", "test") for caption in data.captions(split)]
    assert sorted(captions)[-1] == "three"
    assert captions.count("") == 11
    assert "11 images have no caption, such as " in caplog.text
    assert "left out 1 .txt" in caplog.text


@pytest.mark.parametrize("content", [b"\xff\xfe\xff", b"x" * (descriptions.LONGEST_CAPTION + 1)], ids=["bytes", "long"])
def test_a_text_of_a_shard_that_cannot_be_read_is_named(tmp_path, content):
    path = str(shard(tmp_path / "bad.tar", {**numbered(0, 10), "5.txt": content}))
    data = dfw.build("data", "webdataset", shards=path, size=8)
    with pytest.raises(ConfigError, match=r"^data\.shards: the caption of .*bad\.tar: '5\.png' cannot be read"):
        data.captions("train")


def test_shards_that_skip_images_have_no_captions(tmp_path):
    path = str(shard(tmp_path / "some.tar", numbered(0, 10)))
    data = dfw.build("data", "webdataset", shards=path, size=8, on_error="skip")
    with pytest.raises(ConfigError, match=r"^data\.on_error=skip replaces an unreadable image"):
        data.captions("train")


def test_nothing_is_decoded_for_a_caption(tmp_path, monkeypatch):
    data = build(tmp_path, FORMS["csv"])
    monkeypatch.setattr(image_folder.LazyImages, "decode", lambda *given: pytest.fail("it decodes an image"))
    assert data.captions("train") == [text for _, text in wanted("train")]
