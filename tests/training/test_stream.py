"""The order of the data."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion_fw.data.dataset import InMemory, WithFlips, resident
from diffusion_fw.training.stream import ResidentLoader, ShuffledBatches


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


@pytest.mark.parametrize("flips", [False, True])
def test_examples_on_the_device_give_the_batches_of_a_data_loader(flips):
    memory = InMemory(torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2), torch.arange(6))
    examples = WithFlips(memory) if flips else memory
    batches = ShuffledBatches(len(examples), 4, 1, start=3, stop=10, rank=1, world_size=2)
    there = resident(examples, torch.device("cpu"), most=math.inf)
    assert there is not None
    loader = ResidentLoader(there, batches, torch.device("cpu"))
    assert len(loader) == len(batches)
    for found, indices in zip(loader, batches, strict=True):
        for one, other in zip(found, examples.__getitems__(indices), strict=True):
            assert torch.equal(one, other)


def test_examples_stay_where_they_are_if_they_do_not_fit_or_are_not_in_memory():
    examples = InMemory(torch.zeros(6, 1, 2, 2), torch.arange(6))
    assert examples.nbytes == 6 * 4 * 4 + 6 * 8
    assert resident(examples, torch.device("cpu"), most=examples.nbytes - 1) is None
    assert resident(WithFlips(OnDisk()), torch.device("cpu"), most=math.inf) is None


class OnDisk:
    def __len__(self):
        return 2

    def __getitems__(self, indices):
        return torch.zeros(len(indices), 1, 2, 2), None

    def fingerprint(self):
        return ""
