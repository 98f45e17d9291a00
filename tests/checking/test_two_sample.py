from __future__ import annotations

import pytest
import torch

from diffusion_fw.checking.two_sample import energy_test


def draws(count, seed, shift=0.0, scale=1.0):
    return shift + scale * torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)).double()


def test_p_is_uniform_for_two_samples_of_one_distribution():
    p = torch.tensor([energy_test(draws(60, 2 * i), draws(60, 2 * i + 1), 99, seed=i)[1] for i in range(200)])
    for level in (0.1, 0.25, 0.5, 0.75):
        assert (p <= level).double().mean().item() == pytest.approx(level, abs=4 * (level * (1 - level) / 200) ** 0.5)


@pytest.mark.parametrize(("shift", "scale"), [(0.3, 1.0), (0.0, 1.3)])
def test_another_mean_or_scale_is_found_out(shift, scale):
    assert energy_test(draws(500, 0), draws(500, 1, shift, scale))[1] <= 0.001


def test_the_statistic_is_the_energy_distance():
    """Of two points each, by hand: 2 * mean |x - y| - mean |x - x'| - mean |y - y'|."""
    x, y = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[3.0], [5.0]]).double()
    assert energy_test(x, y)[0] == pytest.approx(2 * 3.5 - 0.5 - 1.0, abs=1e-5)
