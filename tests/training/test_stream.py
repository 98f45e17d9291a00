"""The order of the data."""

from __future__ import annotations

import pytest

from diffusion_fw.training.stream import ShuffledBatches


def batches(**changes):
    return list(ShuffledBatches(**{"examples": 10, "batch_size": 4, "seed": 1, "start": 0, "stop": 10, **changes}))


def test_every_epoch_holds_every_example_once_even_where_batches_span_epochs():
    stream = [index for batch in batches() for index in batch]
    for epoch in range(4):
        assert sorted(stream[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert stream[:10] != stream[10:20]


def test_a_batch_may_be_longer_than_an_epoch():
    stream = [index for batch in batches(batch_size=25, stop=2) for index in batch]
    assert sorted(stream) == sorted(list(range(10)) * 5)


def test_a_resumed_stream_continues_where_it_was():
    assert batches(start=7) == batches()[7:]


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_batches_of_one_process(world_size):
    whole = batches()
    parts = [batches(rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        assert all(parts[rank][step] == batch[rank::world_size] for rank in range(world_size))


def test_another_seed_gives_another_order():
    assert batches() == batches()
    assert batches(seed=2) != batches()
