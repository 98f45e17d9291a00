"""The stated memory of a run is that of its parts."""

from __future__ import annotations

import pytest
import torch

from diffusion_fw.app.memory import chunk_size, estimate, saved_bytes, state_ratio, stated
from diffusion_fw.composition import Facts, build_data, build_denoiser


@pytest.fixture
def facts(tiny):
    return Facts.of(build_data(tiny()), tiny())


def test_weights_gradients_moments_and_averages_are_multiples_of_the_parameters(tiny, facts):
    held = sum(item.nbytes for item in build_denoiser(tiny(), facts).parameters())
    memory = estimate(tiny(), facts, 8)
    assert (memory.parameters, memory.gradients, memory.optimizer, memory.averages) == (held, held, 2 * held, held)
    assert estimate(tiny({"ema": "none"}), facts, 8).averages == 0
    assert state_ratio(tiny({"optimizer": "sgd"})) == 1
    assert str(memory) in stated(tiny(), facts, 8)


def test_activations_grow_linearly_with_the_batch(tiny, facts):
    assert estimate(tiny(), facts, 64).activations == pytest.approx(saved_bytes(tiny(), facts, 64), rel=1e-3)


def test_checkpointing_and_bf16_keep_less(tiny, facts):
    plain = saved_bytes(tiny(), facts, 8)
    assert saved_bytes(tiny({"network.checkpointing": True}), facts, 8) < plain
    assert saved_bytes(tiny({"trainer.precision": "bf16-mixed"}), facts, 8) < plain


def test_an_automatic_batch_is_the_largest_power_of_two_that_fits(tiny, facts, monkeypatch):
    each = saved_bytes(tiny(), facts, 2) // 2
    cpu = torch.device("cpu")
    for examples, size in ((1, 1), (40, 32), (64, 64), (5000, 256)):
        monkeypatch.setattr("os.sysconf", lambda name, n=examples: 2 * n * each if "AVPHYS" in name else 1)
        assert chunk_size("auto", tiny(), facts, cpu) == size
    assert chunk_size(7, tiny(), facts, cpu) == 7
