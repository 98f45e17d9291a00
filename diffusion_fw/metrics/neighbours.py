"""Nearest neighbours between sets of vectors, in parts that fit onto the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_fw.data.dataset import READ_AT_ONCE, Examples, InMemory

Embedding = Callable[[Tensor], Tensor]
"""From examples as the data hold them to vectors (N, D)."""

QUERIES_AT_ONCE = 1000
EQUAL = 1e-10
"""Squared distances are equal if they differ by less than this part of the mean square of the vectors."""


def nearest(
    queries: Tensor, examples: Examples, embed: Embedding, count: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """The distances and the indices (N, count) of the examples that are nearest to the queries (N, D), on the host.

    The device holds READ_AT_ONCE examples and QUERIES_AT_ONCE queries at once.
    """
    count = min(count, len(examples))
    distances = torch.full((len(queries), count), torch.inf, dtype=torch.float64)
    indices = torch.zeros(len(queries), count, dtype=torch.int64)
    for first in range(0, len(examples), READ_AT_ONCE):
        part = range(first, min(first + READ_AT_ONCE, len(examples)))
        vectors = embed(examples.__getitems__(part)[0]).to(device).double()
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            rows = slice(start, start + QUERIES_AT_ONCE)
            asked = queries[rows].to(device).double()
            order = torch.cdist(asked, vectors).topk(min(count, len(part)), largest=False).indices
            # The distance of a copy is 0, which that of cdist, by products, is not.
            near = torch.stack([(asked - vectors[column]).norm(dim=1) for column in order.T], dim=1)
            distances[rows], best = torch.cat([distances[rows], near.cpu()], dim=1).topk(count, largest=False)
            indices[rows] = torch.cat([indices[rows], first + order.cpu()], dim=1).gather(1, best)
    return distances, indices


def radii(vectors: Tensor, k: int, device: torch.device | str = "cpu") -> Tensor:
    """The distance (N,) of each vector (N, D) to the k-th nearest of the others."""
    distances, _ = nearest(vectors, InMemory(vectors), lambda part: part, k + 1, device)
    return distances[:, k]


class Hits(NamedTuple):
    """How many balls hold each point, and how many points each ball holds."""

    of_points: Tensor
    of_balls: Tensor


def hits(points: Tensor, centres: Tensor, radius: Tensor, device: torch.device | str = "cpu") -> Hits:
    """Which points (N, D) lie in the closed balls with these centres (M, D) and radii (M,): int64 (N,) and (M,).

    A point that rounding may have put outside is inside.
    """
    of_points = torch.zeros(len(points), dtype=torch.int64)
    of_balls = torch.zeros(len(centres), dtype=torch.int64)
    slack = EQUAL * float((centres - centres.mean(0)).double().square().sum(1).mean())
    for first in range(0, len(centres), READ_AT_ONCE):
        balls = slice(first, first + READ_AT_ONCE)
        middle = centres[balls].to(device).double()
        reach = (radius[balls].to(device).double().square() + slack).sqrt()
        for start in range(0, len(points), QUERIES_AT_ONCE):
            rows = slice(start, start + QUERIES_AT_ONCE)
            inside = torch.cdist(points[rows].to(device).double(), middle) <= reach
            of_points[rows] += inside.sum(1).cpu()
            of_balls[balls] += inside.sum(0).cpu()
    return Hits(of_points, of_balls)
