"""Seeded randomness: a function of its key, not of batches or processes."""

from __future__ import annotations

import pytest
import torch

from diffusion_fw.noise import SampleNoise, batch_noise, generator


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_the_noise_of_a_global_batch_is_the_same_for_any_number_of_processes(world_size):
    whole = batch_noise(torch.empty(24, 3, 2), (5, 9))
    parts = [batch_noise(torch.empty(24 // world_size, 3, 2), (5, 9), rank, world_size) for rank in range(world_size)]
    joined = torch.empty_like(whole)
    for rank, part in enumerate(parts):
        joined[rank::world_size] = part
    assert torch.equal(joined, whole)


def test_batch_noise_is_standard_normal_and_differs_by_key():
    noise = batch_noise(torch.empty(4096, 16), (1, 2))
    other = batch_noise(torch.empty(4096, 16), (1, 3))
    # 65,536 draws: five standard errors of the mean, of the variance and of the correlation.
    assert abs(noise.mean()) < 5 / 256
    assert abs(noise.var() - 1) < 5 * 2**0.5 / 256
    assert abs((noise * other).mean()) < 5 / 256
    rows = noise @ noise.T / 16
    assert abs(rows[~torch.eye(4096, dtype=torch.bool)].mean()) < 0.01


def test_sample_noise_depends_on_seed_and_index_alone():
    together = SampleNoise(3, [0, 1, 2, 3])
    apart = [SampleNoise(3, [index]) for index in range(4)]
    for _ in range(3):
        drawn = together(torch.empty(4, 2, 2))
        assert torch.equal(drawn, torch.cat([source(torch.empty(1, 2, 2)) for source in apart]))
    assert not torch.equal(SampleNoise(4, [0])(torch.empty(1, 8)), SampleNoise(3, [0])(torch.empty(1, 8)))


def test_generators_of_neighbouring_keys_are_unrelated():
    draws = torch.stack([torch.randn(1000, generator=generator(0, key)) for key in range(8)])
    correlation = torch.corrcoef(draws) - torch.eye(8)
    assert correlation.abs().max() < 5 / 1000**0.5


def test_keys_of_different_lengths_are_different():
    draws = [torch.randn(8, generator=generator(*key)) for key in ((1, 2), (1, 2, 0), (1, 2, 0, 0))]
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])


@pytest.mark.gpu
@pytest.mark.parametrize("world_size", [2, 3, 12])
def test_the_noise_of_a_global_batch_on_a_gpu_is_the_same_for_any_number_of_processes(world_size):
    whole = batch_noise(torch.empty(24, 3, 2, device="cuda"), (5, 9))
    for rank in range(world_size):
        part = batch_noise(torch.empty(24 // world_size, 3, 2, device="cuda"), (5, 9), rank, world_size)
        assert torch.equal(part, whole[rank::world_size])


@pytest.mark.gpu
def test_sample_noise_on_a_gpu_depends_on_seed_and_index_alone():
    together = SampleNoise(3, [0, 1, 2, 3], "cuda")
    apart = [SampleNoise(3, [index], "cuda") for index in range(4)]
    draws = [together(torch.empty(4, 2, 2, device="cuda")) for _ in range(3)]
    for drawn in draws:
        assert torch.equal(drawn, torch.cat([source(torch.empty(1, 2, 2, device="cuda")) for source in apart]))
    assert not torch.equal(draws[0], draws[1])
