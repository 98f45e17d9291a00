"""Whether two sets of points come from one distribution."""

from __future__ import annotations

import torch
from torch import Tensor


def energy_test(x: Tensor, y: Tensor, permutations: int = 999, seed: int = 0) -> tuple[float, float]:
    """The energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| of x (n, D) and y (m, D), and its p-value.

    Szekely & Rizzo 2004. The p-value is the share of random relabellings, the given one included, whose distance is at
    least as large. For two samples of one distribution p <= a has probability a.
    """
    points = torch.cat([x, y]).float()
    distances = torch.cdist(points, points)
    n, m = len(x), len(y)
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack(
        [torch.arange(n + m)] + [torch.randperm(n + m, generator=generator) for _ in range(permutations)]
    )
    weight = torch.full((permutations + 1, n + m), -1 / m)
    weight.scatter_(1, order[:, :n], 1 / n)
    statistic = -((weight @ distances) * weight).sum(1)
    return float(statistic[0]), float((statistic >= statistic[0]).double().mean())
