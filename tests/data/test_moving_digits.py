"""Clips of digits that move and bounce."""

from __future__ import annotations

import pytest
import torch

import diffusion_fw as dfw


def clips(**parameters):
    return dfw.build("data", "moving_digits", **{"num_examples": 300, **parameters})


def corners(data, split="train"):
    """The place of the digit in each frame, found again in the pixels, for digits that fill all of their 8 rows."""
    values = data.load(split).values[:, 0]
    rows = (values > 0).any(3)
    return rows.int().argmax(2), rows.sum(2)


@pytest.mark.parametrize("parameters", [{}, {"size": 20, "frames": 5}, {"size": 8}])
def test_each_frame_shows_the_whole_digit_of_the_label_and_nothing_else(parameters):
    data, digits = clips(**parameters), dfw.build("data", "digits")
    assert data.train.values.shape == (300, *data.shape)
    assert data.train.values.dtype == torch.uint8
    known = {
        scan.numpy().tobytes(): int(label) for scan, label in zip(*digits.train.__getitems__(range(1438)), strict=True)
    }
    sums = {int(scan.sum()) for scan in digits.train.values}
    for clip, label in zip(data.train.values[:40, 0], data.train.labels[:40].tolist(), strict=True):
        assert int(clip[0].sum()) in sums
        assert (clip.sum((1, 2)) == clip[0].sum()).all()
        crops = clip[0].unfold(0, 8, 1).unfold(1, 8, 1).flatten(0, 1)
        assert label in {known.get(crop[None].numpy().tobytes()) for crop in crops}


def test_held_out_clips_show_no_training_digit():
    data, digits = clips(size=8, frames=2), dfw.build("data", "digits")
    shown = {frame.numpy().tobytes() for frame in data.test.values[:, :, 0]}
    assert shown <= {scan.numpy().tobytes() for scan in digits.test.values}
    assert not shown & {scan.numpy().tobytes() for scan in digits.train.values}


def test_a_clip_is_a_function_of_the_seed_and_its_index():
    few, many, other = clips(num_examples=20), clips(), clips(seed=1)
    assert torch.equal(few.train.values, many.train.values[:20])
    assert torch.equal(few.train.labels, many.train.labels[:20])
    assert len({many.train.fingerprint(), many.test.fingerprint(), other.train.fingerprint()}) == 3


def test_digits_move_evenly_in_a_line_and_come_back_from_the_edges():
    data = clips(size=16, frames=40, speed=1.5)
    draws = torch.tensor([[0.5, 0.25, 0.0], [0.5, 0.5, 0.25]], dtype=torch.float64)
    ways = data.corners(draws)
    steps = 1.5 * torch.arange(40)
    assert (ways[0, :, 0] == 4).all()
    expected = 8 - ((2 + steps) % 16 - 8).abs()
    assert (ways[0, :, 1] - expected).abs().max() <= 0.5
    assert ways[0, :, 1].min() == 0
    assert ways[0, :, 1].max() == 8
    assert (ways[1, :, 1] == 4).all()
    top, _ = corners(clips(size=30, frames=3, speed=0.0))
    assert (top == top[:, :1]).all()
