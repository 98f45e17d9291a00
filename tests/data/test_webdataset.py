"""Images in tar shards: the same data as the files they were packed from, in an order that can be entered anywhere."""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion_fw as dfw
from diffusion_fw.data.formats import shards as shards_module
from diffusion_fw.data.formats import tar_index
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.stream import ShuffledBatches

CLASSES = ("ant", "bee", "wasp")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "diffusion_fw" / "shards"


def png(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path, members, format=tarfile.PAX_FORMAT):
    """A tar of (name or TarInfo, content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def examples(start, stop):
    """Members of labelled examples, label seed % 3."""
    return [
        member
        for seed in range(start, stop)
        for member in ((f"{seed:04d}.cls", str(seed % 3).encode()), (f"{seed:04d}.png", png(seed)))
    ]


@pytest.fixture
def four(tmp_path):
    """Forty images in four shards of ten."""
    for shard in range(4):
        pack(tmp_path / f"train-{shard:02d}.tar", examples(10 * shard, 10 * shard + 10))
    return tmp_path / "train-{00..03}.tar"


def build(shards, **settings):
    return dfw.build(
        "data", "webdataset", **{"shards": shards if isinstance(shards, list) else str(shards), **settings}
    )


def small(shards, **settings):
    return build(shards, size=8, **settings)


def everything(part):
    return part.__getitems__(range(len(part)))


def seeds(values, count=60):
    """Which picture each value is."""
    known = {np.array(Image.open(io.BytesIO(png(seed)))).tobytes(): seed for seed in range(count)}
    return [known[value.permute(1, 2, 0).contiguous().numpy().tobytes()] for value in values]


# --------------------------------------------------------------------------------------------------------------------
# What is read
# --------------------------------------------------------------------------------------------------------------------


def test_shards_hold_the_images_and_classes_of_the_folder_they_were_packed_from(tmp_path, four):
    for seed in range(40):
        for split in ("train", "test"):  # the same images on both sides: the split is not the point here
            path = tmp_path / "folder" / split / CLASSES[seed % 3] / f"{seed:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(seed))
    folder = dfw.build("data", "image_folder", path=str(tmp_path / "folder"), size=8).train
    data = small(four, test_shards=str(pack(tmp_path / "test.tar", examples(40, 43))))
    assert data.class_names == ("0", "1", "2")
    assert (len(data.train), len(data.test)) == (40, 3)
    found, labels = everything(data.train)
    values, classes = everything(folder)
    assert seeds(found) == list(range(40))
    order = torch.tensor(seeds(values))
    assert torch.equal(found[order], values)
    assert labels.dtype == torch.int64
    assert torch.equal(labels[order], classes)


def test_an_epoch_over_both_splits_holds_every_example_once(four):
    data = small(four, test_fraction=0.3)
    batches = ShuffledBatches(len(data.train), 1, 5, start=0, stop=len(data.train))
    train = [seed for batch in batches for seed in seeds(data.train.__getitems__(batch)[0])]
    test = seeds(everything(data.test)[0])
    assert sorted(train + test) == list(range(40))
    assert train != sorted(train)
    assert 3 <= len(test) <= 22  # 12 expected, standard deviation 2.9


def test_an_added_shard_moves_no_image_to_the_other_split(tmp_path, four):
    before = seeds(everything(small(four, test_fraction=0.3).test)[0])
    pack(tmp_path / "train-04.tar", examples(40, 60))
    after = seeds(everything(small(tmp_path / "train-*.tar", test_fraction=0.3).test)[0])
    assert before == [seed for seed in after if seed < 40]


def test_flips_are_added_to_training_alone(four):
    plain, flipped = small(four), small(four, horizontal_flip=True)
    values, _ = everything(plain.train)
    assert torch.equal(everything(flipped.train)[0], torch.cat([values, values.flip(-1)]))
    assert len(flipped.test) == len(plain.test)


def test_labels_are_read_from_cls_or_json_before_or_after_the_image_or_are_absent(tmp_path):
    mixed = [
        ("a/1.png", png(1)),
        ("a/1.cls", b"2\n"),
        ("a/2.json", json.dumps({"label": 1, "text": "x"}).encode()),
        ("a/2.png", png(2)),
        ("b/2.PNG", png(3)),  # the same last part in another folder is another key
        ("b/2.json", b'{"label": 9}'),
        ("b/2.cls", b"0"),  # goes before the json
        ("b/.hidden.png", png(4)),
        ("b/2.txt", b"a caption"),
    ]
    held_out = str(pack(tmp_path / "held.tar", [("1.png", png(0)), ("1.cls", b"0")]))
    values, labels = everything(small(pack(tmp_path / "mixed.tar", mixed), test_shards=held_out).train)
    assert (seeds(values), labels.tolist()) == ([1, 2, 3], [2, 1, 0])
    bare = pack(tmp_path / "bare.tar", [(f"{seed}.png", png(seed)) for seed in range(4)])
    assert small(bare).class_names == ()
    assert everything(small(bare).train)[1] is None


def test_images_whose_names_have_more_dots_are_read_with_their_labels(tmp_path, caplog):
    members = [
        ("shot_1.001.png", png(1)),
        ("shot_1.002.png", png(2)),
        ("shot_1.cls", b"2"),
        ("shot_2.v1.5.png", png(3)),
        ("shot_2.v1.5.cls", b"1"),
        ("photo.jpg", png(4)),  # the suffix states a name, the content the format
        ("photo.mask.png", png(5)),
        ("photo.cls", b"0"),
        ("lost.cls", b"0"),
        ("photo.txt", b"a caption"),
        ("lost.txt", b"a caption"),
        ("photo.raw.heic", b"x"),
    ]
    held_out = str(pack(tmp_path / "held.tar", [("1.png", png(0)), ("1.cls", b"0")]))
    path = pack(tmp_path / "a.tar", members)
    for _ in range(2):  # the second time from the kept index
        caplog.clear()
        values, labels = everything(small(path, test_shards=held_out).train)
        assert (seeds(values), labels.tolist()) == ([1, 2, 3, 4], [2, 2, 1, 0])
        (line,) = [record.getMessage() for record in caplog.records]
        for text in (
            "data.shards: read 4 images, left out ",
            "1 images beside that of their example (such as 'a.tar: photo.mask')",
            "1 labels without an image (such as 'a.tar: lost')",
            "1 .txt (such as 'a.tar: lost.txt')",
            "1 .heic (such as 'a.tar: photo.raw.heic')",
        ):
            assert text in line


def labelled(numbers, first=0):
    """Members of one image for each label."""
    for seed, number in enumerate(numbers, first):
        yield f"{seed:04d}.cls", str(number).encode()
        yield f"{seed:04d}.png", png(seed)


def test_the_classes_are_the_labels_of_training_images(tmp_path):
    train, test = pack(tmp_path / "a.tar", labelled([281, 207] * 5)), pack(tmp_path / "b.tar", labelled([207, 281], 40))
    data = small(train, test_shards=str(test))
    assert data.class_names == ("207", "281")
    assert data.class_counts == (5, 5)
    assert everything(data.train)[1].tolist() == [1, 0] * 5
    assert everything(data.test)[1].tolist() == [0, 1]
    split = small(train, test_fraction=0.3)
    assert split.class_names == ("207", "281")
    assert "207: " in split.describe()


def test_a_held_out_label_that_no_training_image_has_is_refused(tmp_path):
    train, test = pack(tmp_path / "a.tar", labelled([0, 1] * 5)), pack(tmp_path / "b.tar", labelled([0, 2], 40))
    with pytest.raises(ConfigError, match=r"b\.tar: '0041\.png' has the label 2, which no training image has"):
        small(train, test_shards=str(test)).train  # noqa: B018


def test_a_label_without_a_readable_training_image_is_no_class(tmp_path, caplog):
    members = [*labelled([0, 5] * 5), ("x.png", b"damaged"), ("x.cls", b"3")]
    test = pack(tmp_path / "b.tar", labelled([0, 3, 5], 40))
    data = small(pack(tmp_path / "a.tar", members), test_shards=str(test), on_error="skip")
    assert data.class_names == ("0", "5")
    assert (len(data.train), everything(data.test)[1].tolist()) == (10, [0, 1])
    assert "left out 1 labels without a readable training image: [3]" in caplog.text


def test_a_label_is_never_held_out_as_a_whole(tmp_path):
    data = small(pack(tmp_path / "a.tar", labelled([0, 1] * 15 + list(range(2, 20)))), test_fraction=0.5)
    assert data.num_classes == 20
    assert min(data.class_counts) == 1
    with pytest.raises(ConfigError, match="each label has a single one"):
        small(pack(tmp_path / "b.tar", labelled(range(5)))).train  # noqa: B018


def test_shards_of_several_splits_are_not_mixed(tmp_path):
    for name in ("train-00", "train-01", "val-00"):
        pack(tmp_path / f"{name}.tar", examples(0, 4))
    with pytest.raises(
        ConfigError, match=r"train-00\.tar and val-00\.tar are of different splits; .*data\.test_shards"
    ):
        small(tmp_path / "*.tar").train  # noqa: B018
    assert len(small(tmp_path / "train-*.tar", test_shards=str(tmp_path / "val-*.tar")).train) == 8


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_lie_where_the_standard_library_finds_them(tmp_path, format):
    deep = "folder/" * 20 + "é" if format != tarfile.USTAR_FORMAT else "folder/" * 20 + "e"
    directory, link = tarfile.TarInfo("folder"), tarfile.TarInfo("link.png")
    directory.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "x" * 90
    path = pack(tmp_path / "a.tar", [(directory, b""), (f"{deep}.png", png(1)), (link, b""), *examples(2, 5)], format)
    with tarfile.open(path) as archive:
        expected = [(item.name, item.offset_data, item.size if item.isreg() else -1) for item in archive]
    with path.open("rb") as file:
        assert [tuple(member) for member in tar_index.members(file)] == expected


# --------------------------------------------------------------------------------------------------------------------
# The order: resumed, shared, worked on
# --------------------------------------------------------------------------------------------------------------------


def stream(part, **changes):
    batches = ShuffledBatches(**{"examples": len(part), "batch_size": 6, "seed": 3, "start": 0, "stop": 12, **changes})
    return [part.__getitems__(batch) for batch in batches]


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True)
    )


def test_a_resumed_run_sees_what_the_uninterrupted_one_would_have_seen(four):
    whole = stream(small(four).train)
    assert same(stream(small(four).train, start=5), whole[5:])


def test_two_processes_share_each_batch_of_one_and_no_example(four):
    part = small(four).train
    whole = stream(part)
    mine, other = (stream(part, rank=rank, world_size=2) for rank in range(2))
    for both, first, second in zip(whole, mine, other, strict=True):
        assert torch.equal(both[0][::2], first[0])
        assert torch.equal(both[0][1::2], second[0])
        assert torch.equal(both[1][::2], first[1])


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_what_one_process_reads(four, context):
    part = small(four).train
    whole = stream(part)  # opens handles that a forked worker inherits
    batches = ShuffledBatches(len(part), 6, 3, start=0, stop=12)
    loader = torch.utils.data.DataLoader(
        part, batch_sampler=batches, num_workers=2, collate_fn=tuple, multiprocessing_context=context
    )
    assert same(list(loader), whole)


def test_few_files_are_open_at_a_time(tmp_path):
    for shard in range(80):
        pack(tmp_path / f"{shard:02d}.tar", [("0.png", png(shard % 60))])
    shards_module.opened.cache_clear()
    part = small(tmp_path / "*.tar").train
    everything(part)
    assert 0 < shards_module.opened.cache_info().currsize <= 64


def test_the_index_is_kept_and_made_again_for_a_changed_shard_or_a_broken_file(tmp_path, four, cache, monkeypatch):
    before = everything(small(four).train)[0]
    assert len(list(cache.iterdir())) == 4
    with monkeypatch.context() as patch:
        patch.setattr(tar_index, "index", lambda path: pytest.fail("indexed again"))
        assert torch.equal(everything(small(four).train)[0], before)
    for file in cache.iterdir():
        file.write_bytes(b"broken")
    assert torch.equal(everything(small(four).train)[0], before)
    fingerprint = small(four).train.fingerprint()
    assert small(four).train.fingerprint() == fingerprint
    pack(tmp_path / "train-00.tar", examples(50, 58))
    changed = small(four)
    assert 50 in seeds(everything(changed.train)[0])
    assert changed.train.fingerprint() != fingerprint


@pytest.mark.parametrize("change", ["pixels", "labels"])
def test_a_shard_of_the_same_size_and_time_is_another_one(tmp_path, change):
    longest = max(len(png(seed)) for seed in range(40))

    def members(first):
        for seed in range(10):
            pixels, label = (first + seed, seed % 3) if change == "pixels" else (seed, (first + seed) % 3)
            yield f"{seed:04d}.cls", str(label).encode()
            yield f"{seed:04d}.png", png(pixels).ljust(longest, b"\0")

    def packed(path, first):
        os.utime(pack(path, members(first)), (0, 0))
        return small(path).train

    first, second = packed(tmp_path / "a" / "x.tar", 0), packed(tmp_path / "b" / "x.tar", 20)
    assert first.fingerprint() != second.fingerprint()
    assert first.fingerprint() == packed(tmp_path / "c" / "x.tar", 0).fingerprint()
    before = everything(first)
    after = everything(packed(tmp_path / "a" / "x.tar", 20))
    assert torch.equal(before[0], after[0]) == (change == "labels")
    assert torch.equal(before[1], after[1]) == (change == "pixels")


@pytest.mark.parametrize("place", range(-200, 0, 7))
def test_a_flipped_bit_in_a_kept_index_is_found(tmp_path, four, cache, place, caplog):
    before = everything(small(four).train)
    for file in cache.iterdir():
        content = bytearray(file.read_bytes())
        content[place] ^= 16
        file.write_bytes(content)
    assert same([everything(small(four).train)], [before])
    assert caplog.text.count("damaged") == 4


# --------------------------------------------------------------------------------------------------------------------
# Bad input
# --------------------------------------------------------------------------------------------------------------------


def spoiled(tmp_path, name, content):
    held_out = pack(tmp_path / "held.tar", examples(50, 52))
    path = pack(tmp_path / "bad.tar", [*examples(0, 3), (name, content), ("bad.cls", b"1"), *examples(3, 5)])
    return {"shards": path, "test_shards": str(held_out)}


@pytest.mark.parametrize("content", [b"", b"no image", png(7)[:60]])
def test_a_corrupt_member_is_named_with_its_shard_or_gives_way_to_the_next(tmp_path, caplog, content):
    settings = spoiled(tmp_path, "bad.png", content)
    with pytest.raises(ConfigError, match=r"data\.shards: .*bad\.tar: 'bad\.png' .*data\.on_error=skip"):
        everything(small(**settings).train)
    with caplog.at_level(logging.WARNING):
        values, labels = everything(small(**settings, on_error="skip").train)
    assert seeds(values) == [0, 1, 2, 3, 3, 4]
    assert labels.tolist() == [0, 1, 2, 0, 0, 1]
    assert caplog.text.count("'bad.png'") == 1
    assert "(1 so far)" in caplog.text


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_is_not_followed(tmp_path, kind):
    (tmp_path / "secret.png").write_bytes(png(9))
    link = tarfile.TarInfo("bad.png")
    link.type, link.linkname = kind, str(tmp_path / "secret.png")
    settings = spoiled(tmp_path, link, b"")
    with pytest.raises(ConfigError, match=r"bad\.tar: 'bad\.png' \(it is a link"):
        everything(small(**settings).train)
    assert 9 not in seeds(everything(small(**settings, on_error="skip").train)[0])


def test_a_member_of_absurd_size_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "LARGEST_MEMBER", 1000)
    settings = spoiled(tmp_path, "bad.png", bytes(1001))
    with pytest.raises(ConfigError, match=r"'bad\.png' \(it has more than 1,000 bytes"):
        everything(small(**settings).train)


def test_names_that_are_paths_become_no_file(tmp_path):
    home = tmp_path / "deep" / "home"
    names = ["../../escaped.png", "/tmp/escaped.png", "a/../../../b.png", "..\\..\\c.png", "a//d.png"]
    path = pack(home / "a.tar", [(name, png(seed)) for seed, name in enumerate(names)])
    held_out = pack(home / "held.tar", [("1.png", png(50))])
    before = {file for file in tmp_path.rglob("*") if file.is_file()}
    values, _ = everything(small(path, test_shards=str(held_out)).train)
    after = {file for file in tmp_path.rglob("*") if file.is_file() and "cache" not in file.parts}
    assert seeds(values) == [0, 1, 2, 4]  # the name of the fourth begins with a dot
    assert after == before


def test_a_shard_that_is_cut_anywhere_is_one_error_that_names_it(tmp_path, four):
    whole = (tmp_path / "train-02.tar").read_bytes()
    with (tmp_path / "train-02.tar").open("rb") as file:
        members = list(tar_index.members(file))
    last = members[-1]
    for length in (0, 100, 512, 700, members[5].start - 512, members[5].start - 300, last.start + 20, last.start + 512):
        (tmp_path / "train-02.tar").write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"train-02\.tar is not a whole uncompressed tar"):
            small(four, on_error="skip").train  # noqa: B018


def header(**changes):
    info = tarfile.TarInfo("a.png")
    for name, value in changes.items():
        setattr(info, name, value)
    return bytearray(info.tobuf(tarfile.GNU_FORMAT))


def with_checksum(block):
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def negative_size():
    """A header whose size, in base 256, is -512: a reader that trusts it goes round for ever (CVE-2025-8194)."""
    block = header()
    block[124:136] = b"\xff" * 10 + b"\xfe\x00"
    return with_checksum(block)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (negative_size() + bytes(1024), "negative size"),
        (bytes(header(type=tarfile.GNUTYPE_SPARSE)) + bytes(1024), "sparse"),
        (bytes(header(size=1 << 60)) + bytes(1024), "cut off"),
        (bytes(header(type=b"x", size=1 << 20)) + bytes((1 << 20) + 1024), "a name's header takes 1,048,576 bytes"),
        (bytes(header(type=b"x", size=20)) + b"99 path=../../x.png\n".ljust(512, b"\0") + bytes(1024), "damaged"),
        (b"\x1f\x8b" + bytes(2000), r"unpack a \.tar\.gz"),
        (png(0), "no tar header at byte 0"),
    ],
)
def test_headers_that_lie_and_files_that_are_no_tar_are_refused(tmp_path, content, message):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"a\.tar is not a whole uncompressed tar.*{message}"):
        small(tmp_path / "a.tar").train  # noqa: B018


@pytest.mark.parametrize("content", [b"cat", b"-1", b"99999999", b"", b"9" * 5000, bytes(2 << 20)])
def test_a_label_that_is_no_class_is_named_or_its_image_left_out(tmp_path, content, caplog):
    path = pack(tmp_path / "a.tar", [*examples(0, 6), ("x.png", png(6)), ("x.cls", content)])
    with pytest.raises(ConfigError, match=r"1 images, such as .*a\.tar: 'x\.png', have a label that is not a number"):
        small(path).train  # noqa: B018
    data = small(path, on_error="skip")
    assert len(data.train) + len(data.test) == 6
    assert "left out 1 images" in caplog.text


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"3", b'{"label": true}', b'{"label": "cat"}'])
def test_a_json_that_holds_no_class_is_refused(tmp_path, content):
    path = pack(tmp_path / "a.tar", [*examples(0, 6), ("x.png", png(6)), ("x.json", content)])
    with pytest.raises(ConfigError, match=r"1 images, such as .*a\.tar: 'x\.png', have a label that is not a number"):
        small(path).train  # noqa: B018


def test_images_of_which_only_some_have_labels_are_refused(tmp_path):
    path = pack(tmp_path / "a.tar", [*examples(0, 6), ("x.png", png(6)), ("y.png", png(7))])
    with pytest.raises(ConfigError, match=r"2 of 8 images, such as .*'x\.png', have no label"):
        small(path).train  # noqa: B018
    bare = pack(tmp_path / "bare.tar", [("x.png", png(6)), ("y.png", png(7))])
    with pytest.raises(ConfigError, match=r"only one of .* has labels"):
        small(pack(tmp_path / "b.tar", examples(0, 6)), test_shards=str(bare)).train  # noqa: B018


def test_two_images_of_one_key_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="two images have the key 'x'"):
        small(pack(tmp_path / "a.tar", [("x.png", png(0)), ("x.jpg", png(1))])).train  # noqa: B018


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shards": "nothing-*.tar"}, r"data\.shards=nothing-\*\.tar: no such file"),
        ({"shards": "train-{00..04}.tar"}, r"no such file .*train-04\.tar"),
        ({"shards": "/dev/zero"}, "not a regular file /dev/zero"),
        ({"shards": "train-{03..00}.tar"}, "0 shards"),
        ({"shards": "train-{0..99999999}.tar"}, "100,000,000 shards"),
        ({"shards": []}, "at least one shard"),
        ({"shards": ["train-00.tar", "train-*.tar"]}, "1 shards are named twice"),
        ({"shards": "train-*.tar", "test_shards": "nothing.tar"}, r"data\.test_shards=nothing\.tar"),
        ({"shards": "train-*.tar", "test_shards": "train-00.tar"}, r"data\.test_shards: .*train-00\.tar"),
        ({"shards": "one.tar"}, "a single image"),
        ({"shards": "none.tar"}, r"none\.tar holds no images"),
    ],
)
def test_a_pattern_that_cannot_be_meant_names_its_key(tmp_path, four, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    pack(tmp_path / "one.tar", examples(0, 1))
    pack(tmp_path / "none.tar", [("a.txt", b"x")])
    with pytest.raises(ConfigError, match=message):
        small(**settings).train  # noqa: B018


def test_ranges_keep_their_width_and_multiply():
    expanded = shards_module.without_ranges("{8..10}/a-{008..009}.tar", "data.shards")
    assert expanded == [f"{folder}/a-{number}.tar" for folder in (8, 9, 10) for number in ("008", "009")]
