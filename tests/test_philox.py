"""The counter-based generator of a GPU's noise."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import diffusion_fw
from diffusion_fw import philox as philox_module
from diffusion_fw.noise import seeds
from diffusion_fw.philox import normal, philox


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        (0, (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (2**64 - 1, (2**32 - 1,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            0x299F31D0A4093822,
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_words_are_the_known_answers_of_random123(key, counter, words):
    found = philox(key, tuple(torch.tensor([word]) for word in counter))
    assert tuple(int(word) for word in found) == words


def test_a_row_depends_on_its_key_and_its_index_alone():
    rows = torch.tensor([0, 1, 2**31, 2**32 + 1, 2**40])
    together = normal(7, rows, (3, 5))
    assert torch.equal(together, torch.cat([normal(7, row[None], (3, 5)) for row in rows]))
    flat = together.flatten(1)
    assert len(flat.unique(dim=0)) == len(rows)
    assert not torch.isclose(normal(8, rows, (3, 5)), together).any()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 1023])
def test_every_element_is_drawn(size):
    noise = normal(seeds(1, count=1)[0], torch.arange(4096), (size,))
    assert noise.shape == (4096, size)
    assert noise.isfinite().all()
    # Each element of a row has the moments of a normal distribution, within six standard errors.
    assert (noise.mean(0).abs() < 6 / 64).all()
    assert ((noise.square().mean(0) - 1).abs() < 6 * 2**0.5 / 64).all()


def test_noise_is_normal_and_uncorrelated():
    noise = normal(seeds(3, 1, count=1)[0], torch.arange(1000), (400,)).double()
    # 400,000 draws against the distribution function: Kolmogorov's statistic exceeds 2 / sqrt(n) once in 1500 times.
    ordered = torch.special.ndtr(noise.flatten().sort().values)
    place = (torch.arange(len(ordered)) + 0.5) / len(ordered)
    assert (ordered - place).abs().max() < 2 / len(ordered) ** 0.5
    for first, second in ((noise[:, :-1], noise[:, 1:]), (noise[:-1], noise[1:]), (noise[:, :200], noise[:, 200:])):
        assert abs((first * second).mean()) < 5 / first.numel() ** 0.5


INTERPRETED = """
import torch
from diffusion_fw import philox_kernel
from diffusion_fw.philox import normal

rows = torch.tensor([0, 3, 2**31, 2**32 + 1, 2**40])
for key in (2**62 + 1, 5):
    for size in (1, 5, 1500):
        expected = normal(key, rows, (size,))
        torch.testing.assert_close(philox_kernel.normal(key, rows, size), expected, rtol=1e-5, atol=1e-5)
"""


def test_the_kernel_computes_what_the_formula_says_in_tritons_interpreter():
    pytest.importorskip("triton")
    # In a process of its own: Triton reads the variable when it is imported.
    subprocess.run([sys.executable, "-c", INTERPRETED], check=True, env={**os.environ, "TRITON_INTERPRET": "1"})


@pytest.mark.parametrize("error", [ImportError("no triton"), RuntimeError("Failed to find C compiler")])
def test_without_a_working_kernel_the_formula_draws_and_a_warning_says_why(monkeypatch, caplog, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(diffusion_fw, "philox_kernel", SimpleNamespace(normal=fails), raising=False)
    monkeypatch.setitem(sys.modules, "diffusion_fw.philox_kernel", diffusion_fw.philox_kernel)
    assert philox_module._fastest.__wrapped__(torch.device("cpu")) is philox_module._normal
    assert str(error) in caplog.text


@pytest.mark.gpu
def test_the_compiled_kernel_computes_what_the_formula_says():
    rows = torch.tensor([0, 3, 2**31, 2**32 + 1, 2**40])
    for key in (2**62 + 1, 5):
        for size in (1, 5, 3 * 32 * 32):
            found = normal(key, rows.cuda(), (size,)).cpu()
            torch.testing.assert_close(found, normal(key, rows, (size,)), rtol=1e-5, atol=1e-5)
