"""NCSN's toy: which dynamics finds the weights of modes with little between them."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from rich.console import Console

from diffusion_fw.checking import __main__ as command
from diffusion_fw.checking import langevin


@pytest.fixture(scope="module")
def samples():
    return langevin.dynamics(plain_steps=150, steps_per_level=100)


def test_plain_langevin_leaves_half_in_each_mode_and_annealed_finds_their_weights(samples):
    """Song & Ermon 2019, figure 3: 4/5 of the data are at (5, 5)."""
    assert langevin.weight(samples["plain"]) == pytest.approx(0.5, abs=0.06)
    allowed = langevin.STANDARD_ERRORS * langevin.standard_error(langevin.COUNT)
    assert langevin.weight(samples["annealed"]) == pytest.approx(0.8, abs=allowed)
    assert langevin.as_published(samples) == {"exact": True, "plain": True, "annealed": True}


def test_within_a_mode_both_are_exact(samples):
    for name in ("plain", "annealed"):
        mode = samples[name][samples[name].sum(1) > 0]
        torch.testing.assert_close(mode.mean(0), torch.full((2,), 5.0), rtol=0, atol=0.2)
        torch.testing.assert_close(mode.std(0), torch.ones(2), rtol=0, atol=0.15)


def test_the_command_prints_the_weights_and_draws_the_samples(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "PICTURES", tmp_path)
    monkeypatch.setattr(langevin, "dynamics", lambda: dict(samples))
    console = Console(width=120, record=True)
    assert command.check_langevin(console)
    text = console.export_text()
    assert all(f"{langevin.weight(found):.3f}" in text for found in samples.values())
    with Image.open(tmp_path / "langevin.png") as picture:
        assert picture.size[0] == 900
    swapped = {"exact": samples["exact"], "plain": samples["annealed"], "annealed": samples["plain"]}
    monkeypatch.setattr(langevin, "dynamics", lambda: swapped)
    assert not command.check_langevin(console)
