"""What a batch is told: it is indexed, joined and moved like a tensor, and each part may be left out."""

from __future__ import annotations

import pytest
import torch

from diffusion_fw.condition import (
    CLASS,
    Condition,
    Told,
    blank,
    class_labels,
    joined,
    on,
    told_nothing,
    told_parts,
)

ROWS = [slice(1, 3), [2, 0], torch.tensor([3, 3, 1]), torch.tensor([True, False, True, False])]


@pytest.fixture
def cond():
    """Four examples, told in part a class, a vector, a sequence and an image."""
    source = torch.Generator().manual_seed(0)
    values = {name: torch.randn(4, *shape, generator=source) for name, shape in SHAPES.items()}
    parts = {name: Told(value, torch.rand(TOLD[name], generator=source) < 0.6) for name, value in values.items()}
    return Condition({**parts, CLASS: Told(torch.tensor([2, 0, 1, 2]), torch.tensor([True, False, True, True]))})


SHAPES = {"angle": (3,), "text": (5, 2), "gray": (1, 4, 4)}
TOLD = {"angle": (4,), "text": (4, 5), "gray": (4,)}


def assert_same(first, second):
    assert first.parts.keys() == second.parts.keys()
    for name, part in first.parts.items():
        assert torch.equal(part.value, second.parts[name].value)
        assert torch.equal(part.told, second.parts[name].told)
        assert part.told.dtype == second.parts[name].told.dtype == torch.bool


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_rows_are_those_of_every_part(cond, rows):
    chosen = cond[rows]
    count = len(torch.arange(4)[rows])
    assert len(chosen) == count
    for name, part in cond.parts.items():
        assert torch.equal(chosen.parts[name].value, part.value[rows])
        assert torch.equal(chosen.parts[name].told, part.told[rows])
        assert len(chosen.parts[name]) == count


def test_cutting_and_joining_gives_the_whole_again(cond):
    assert_same(Condition.cat([cond[:1], cond[1:3], cond[3:]]), cond)
    assert_same(joined(cond[:2], cond[2:]), cond)
    labels = torch.tensor([0, 1, 2])
    assert joined(labels[:1], labels[1:]).tolist() == [0, 1, 2]


def test_without_leaves_the_others_and_the_values_as_they_are(cond):
    left = cond.without(["text"])
    assert not left.parts["text"].told.any()
    assert torch.equal(left.parts["text"].value, cond.parts["text"].value)
    assert_same(Condition({name: left.parts[name] for name in left.parts.keys() - {"text"}}),
                Condition({name: cond.parts[name] for name in cond.parts.keys() - {"text"}}))  # fmt: skip
    assert_same(left.without(["text"]), left)
    assert cond.parts["text"].told.any()


def test_told_nothing_leaves_out_everything_or_what_it_is_asked_to(cond):
    assert not any(part.told.any() for part in told_nothing(cond, 3).parts.values())
    assert_same(told_nothing(cond, 3, ["angle"]), cond.without(["angle"]))
    assert_same(told_nothing(cond, 3, []), cond)
    assert told_nothing(torch.tensor([2, 0]), 3).tolist() == [3, 3]


@pytest.mark.parametrize("name", [*SHAPES, CLASS])
def test_keeping_twice_tells_only_those_that_are_in_both(cond, name):
    first, second = torch.tensor([True, True, False, False]), torch.tensor([False, True, True, False])
    part = cond.parts[name]
    assert torch.equal(part.where(first).where(second).told, part.where(first & second).told)
    assert not part.where(first).told[2:].any()
    assert torch.equal(part.where(first).told[:2], part.told[:2])
    assert torch.equal(part.where(torch.ones(4, dtype=torch.bool)).told, part.told)


def test_labels_have_the_null_class_where_no_class_is_told(cond):
    assert cond.labels(3).tolist() == [2, 3, 1, 2]
    assert cond.without([CLASS]).labels(3).tolist() == [3] * 4
    assert Condition({"angle": cond.parts["angle"]}).labels(3) is None
    assert class_labels(cond, 3).tolist() == [2, 3, 1, 2]
    assert class_labels(torch.tensor([1]), 3).tolist() == [1]
    assert class_labels(None, 3) is None


def test_further_parts_replace_those_of_their_name(cond):
    added = cond | {"angle": Told.all(torch.ones(4, 3)), "more": Told.all(torch.zeros(4, 1))}
    assert added.parts.keys() == {*cond.parts, "more"}
    assert added.parts["angle"].told.all()
    assert torch.equal(added.parts["text"].value, cond.parts["text"].value)


def test_a_batch_without_a_condition_has_no_parts(cond):
    assert told_parts(None) == told_parts(torch.tensor([1])) == {}
    assert told_parts(cond) is cond.parts
    assert on(None, "cpu") is None
    assert_same(on(cond, "cpu"), cond)


def test_blanks_have_the_kinds_and_sizes_of_the_facts():
    found = blank((3, 8, 8), 2, num_classes=5, vectors={"v": 4}, sequences={"s": (6, 7)}, images={"i": 2})
    shapes = {name: (tuple(part.value.shape), tuple(part.told.shape)) for name, part in found.parts.items()}
    assert shapes == {
        "v": ((2, 4), (2,)),
        "s": ((2, 6, 7), (2, 6)),
        "i": ((2, 2, 8, 8), (2,)),
        CLASS: ((2,), (2,)),
    }
    assert all(part.told.all() for part in found.parts.values())
    assert CLASS not in blank((2,), 3, vectors={"v": 1}).parts
    assert blank((2,), 3, num_classes=4).tolist() == [0, 0, 0]
    assert blank((2,), 3) is None
