"""One pass over the samples for all metrics: in chunks, continued, shared by processes."""

import datetime

import pytest
import torch
import torch.multiprocessing as mp

from diffusion_fw import registry
from diffusion_fw.metrics.collection import Collection, Want


def draw(indices):
    index = torch.tensor(indices)
    values = torch.stack([torch.full((2,), float(i)) for i in indices])
    return lambda quantise: values if quantise is None else quantise(values), index % 3


def collection(folder, *, count=10, batch_size=4, drawing=draw, identity="model"):
    features = registry.build("features", "identity", shape=(2,))
    wants = [Want(count, frozenset({"features", "labels"}), features), Want(count // 2, frozenset({"examples"}))]
    return Collection(drawing, wants, batch_size, torch.device("cpu"), folder, identity), features


def test_metrics_share_the_samples_of_one_pass(tmp_path):
    drawn = []

    def counting(indices):
        drawn.append(list(indices))
        return draw(indices)

    collected, features = collection(tmp_path, drawing=counting)
    whole = collected(10, frozenset({"features", "labels"}), features)
    part = collected(5, frozenset({"examples"}), None)
    assert drawn == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert whole.features.tolist() == [[i, i] for i in range(10)]
    assert whole.labels.tolist() == [i % 3 for i in range(10)]
    assert part.examples.tolist() == [[i, i] for i in range(5)]
    assert whole.examples is None
    assert part.features is None


def test_an_interrupted_pass_goes_on_where_it_stopped(tmp_path):
    def interrupted(indices):
        if indices[0] == 8:
            raise KeyboardInterrupt
        return draw(indices)

    first, features = collection(tmp_path, drawing=interrupted)
    with pytest.raises(KeyboardInterrupt):
        first.draw_all()
    drawn = []

    def counting(indices):
        drawn.append(indices[0])
        return draw(indices)

    second, features = collection(tmp_path, drawing=counting)
    assert second(10, frozenset({"features"}), features).features[:, 0].tolist() == list(range(10))
    assert drawn == [8]
    assert second.drawn == 2
    second.finish()
    assert not list(tmp_path.iterdir())


def test_a_pass_over_other_samples_takes_none_of_them(tmp_path):
    first, _ = collection(tmp_path)
    first.draw_all()
    drawn = []

    def counting(indices):
        drawn.append(indices[0])
        return draw(indices)

    for other in (
        collection(tmp_path, drawing=counting, identity="another"),
        collection(tmp_path, drawing=counting, batch_size=5),
    ):
        other[0].draw_all()
    assert drawn == [0, 4, 8, 0, 5]


def _process(rank, folder):
    meeting = f"file://{folder}/meeting"
    wait = datetime.timedelta(seconds=100)
    torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=2, timeout=wait)
    collected, features = collection(folder)
    found = collected(10, frozenset({"features", "labels"}), features)
    torch.save((found.features, found.labels, collected.drawn), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_share_the_drawing_and_get_the_same_set(tmp_path):
    mp.spawn(_process, (tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone, features = collection(tmp_path / "alone")
    expected = alone(10, frozenset({"features", "labels"}), features)
    for features_of, labels_of, _ in (first, second):
        assert torch.equal(features_of, expected.features)
        assert torch.equal(labels_of, expected.labels)
    assert (first[2], second[2]) == (6, 4)
