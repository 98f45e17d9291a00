"""The data sets that ship with the package."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion_fw as dfw
from diffusion_fw.data.digits import ASSET as DIGITS
from diffusion_fw.data.emoji import ASSETS, average_areas
from diffusion_fw.registry import ConfigError


def everything(examples):
    return examples.__getitems__(range(len(examples)))


def rows(values):
    return {value.numpy().tobytes() for value in values}


# UCI's optdigits.names gives the classes of its test part, which scikit-learn ships.
UCI_CLASSES = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_are_uci_s_1797_scans_class_by_class():
    data = dfw.build("data", "digits")
    assert data.shape == (1, 8, 8)
    assert data.class_names == tuple("0123456789")
    labels = torch.cat([everything(split)[1] for split in (data.train, data.test)])
    assert labels.bincount().tolist() == UCI_CLASSES


def test_digits_show_the_stored_counts_scaled_to_bytes():
    counts = np.load(DIGITS)["values"]
    assert counts.max() == 16
    expected = np.round(counts.astype(float) * 255 / 16).astype(np.uint8)
    data = dfw.build("data", "digits")
    shown = torch.cat([everything(split)[0] for split in (data.train, data.test)])
    assert sorted(rows(shown.squeeze(1))) == sorted({image.tobytes() for image in expected})
    assert len(shown) == len(expected)


@pytest.mark.parametrize(("name", "total", "tolerance"), [("digits", 1797, 2), ("emoji", 1911, 1)])
def test_a_fifth_of_every_class_is_held_out(name, total, tolerance):
    data = dfw.build("data", name)
    train, test = (everything(split)[1].bincount(minlength=data.num_classes) for split in (data.train, data.test))
    assert int((train + test).sum()) == total
    assert ((train + test) / 5 - test).abs().max() <= tolerance
    assert test.min() >= 1


@pytest.mark.parametrize("name", ["digits", "emoji"])
def test_the_embedded_splits_share_no_image_and_never_change(name):
    data, again = dfw.build("data", name), dfw.build("data", name)
    assert data.train.fingerprint() == again.train.fingerprint() != data.test.fingerprint()
    # Noto draws some characters alike: Norway's flag and Bouvet Island's, a family and an adult with a child.
    alike = {"digits": 0, "emoji": 6}[name]
    assert len(rows(everything(data.train)[0]) & rows(everything(data.test)[0])) == alike


@pytest.mark.parametrize("name", ["digits", "emoji"])
def test_every_image_uses_uint8_and_is_not_blank(name):
    data = dfw.build("data", name)
    for split in (data.train, data.test):
        values, labels = everything(split)
        assert values.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert values.shape[1:] == data.shape
        assert (values.flatten(1).double().std(1) > 1).all()


def test_emoji_are_ten_categories_cut_from_one_sheet_on_white():
    data = dfw.build("data", "emoji")
    assert data.shape == (3, 32, 32)
    assert data.num_classes == 10
    assert "Animals & Nature" in data.class_names
    with Image.open(ASSETS / "emoji.png") as sheet:
        first = torch.from_numpy(np.array(sheet)[:32, :32].copy()).permute(2, 0, 1)
    values, labels = everything(data.train)
    assert torch.equal(values[0], first)
    assert data.class_names[labels[0]] == "Smileys & Emotion"
    # A grinning face is yellow in the middle, and its corner is white.
    assert values[0, :, 0, 0].tolist() == [255, 255, 255]
    red, green, blue = values[0, :, 8:24, 8:24].double().mean((1, 2)).tolist()
    assert red > green > blue


@pytest.mark.parametrize("size", [16, 8, 4, 1])
def test_emoji_at_a_size_that_divides_32_are_block_averages(size):
    full, _ = everything(dfw.build("data", "emoji").test)
    small = dfw.build("data", "emoji", size=size)
    expected = torch.nn.functional.avg_pool2d(full.double(), 32 // size).round().to(torch.uint8)
    assert small.shape == (3, size, size)
    assert torch.equal(everything(small.test)[0], expected)


@pytest.mark.parametrize("size", [3, 12, 24, 31])
def test_area_averaging_keeps_the_mean_at_any_size(size):
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    small = average_areas(images, size)
    difference = small.double().mean((2, 3)) - images.double().mean((2, 3))
    assert difference.abs().max() <= 0.5  # what rounding may move
    constant = torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)
    assert (average_areas(constant, size) == 77).all()


def test_emoji_larger_than_the_sheet_are_refused():
    with pytest.raises(ConfigError, match=r"data\.size=33"):
        dfw.build("data", "emoji", size=33)
