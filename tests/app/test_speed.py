"""The speed that explain=true states."""

from __future__ import annotations

import torch

from diffusion_fw.app import speed
from diffusion_fw.composition.parts import compose_parts


def test_the_steps_are_real_ones_and_leave_the_weights_alone(tiny):
    config = tiny({"batch_size": 12})
    parts = compose_parts(config)
    before = {key: value.clone() for key, value in parts.denoiser.state_dict().items()}
    found = speed.measure(config, parts, 12)
    assert found.batch == 12
    assert found.images_per_second > 0
    assert all(torch.equal(before[key], value) for key, value in parts.denoiser.state_dict().items())


def test_the_time_is_that_of_all_examples_at_this_speed(tiny, monkeypatch):
    config = tiny({"batch_size": 100, "trainer.max_steps": 3600})
    monkeypatch.setattr(speed, "measure", lambda *_: speed.Speed(torch.device("cpu"), 100, 10.0))
    assert "10 images/s on cpu in steps of 100, so 5.0 h for 3,600 steps" in speed.describe(config, None, 100, 2)


def test_a_slow_step_is_not_made_larger(tiny, monkeypatch):
    config = tiny({"batch_size": 64})
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    assert speed.measure(config, compose_parts(config), 64).batch == 1


def test_a_step_that_fails_is_named(tiny, monkeypatch):
    def fails(*_):
        raise RuntimeError("no memory\nmore of it")

    monkeypatch.setattr(speed, "measure", fails)
    config = tiny({})
    assert speed.describe(config, compose_parts(config), 8, 1) == "not measured: RuntimeError: no memory"
