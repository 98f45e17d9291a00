from __future__ import annotations

import torch

from diffusion_fw.networks.blocks.embeddings import Sinusoids, TimeEmbedding


def test_frequencies_are_those_of_ddpm():
    # Ho et al. 2020 (code, nn.get_timestep_embedding): from 1 down to 1/10000 in equal ratios, both ends included.
    frequencies = Sinusoids(128).frequencies
    assert frequencies.shape == (64,)
    torch.testing.assert_close(frequencies[[0, -1]], torch.tensor([1.0, 1e-4]))
    ratios = frequencies[1:] / frequencies[:-1]
    torch.testing.assert_close(ratios, torch.full_like(ratios, 10000 ** (-1 / 63)))


def test_constants_are_not_in_the_checkpoint():
    assert set(TimeEmbedding(8, 4).state_dict()) == {"first.weight", "first.bias", "second.weight", "second.bias"}


def test_is_float32_under_autocast():
    torch.manual_seed(0)
    embedding = TimeEmbedding(32, 16)
    label = torch.arange(1000.0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = embedding(label)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, embedding(label))
    assert len(inside.unique(dim=0)) == 1000
