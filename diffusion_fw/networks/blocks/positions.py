"""Fixed positions of the tokens of a grid: sinusoids that are added, or rotations of queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MAX_PERIOD = 10_000.0


def angles(grid: tuple[int, ...], count: int) -> Tensor:
    """(N, d, count), float64: each token's index along each axis times 10000^(-k / count), the last axis first."""
    places = torch.stack(torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij"), dim=-1)
    frequencies = MAX_PERIOD ** (-torch.arange(count, dtype=torch.float64) / count)
    return places.flatten(0, -2).flip(-1).double()[..., None] * frequencies


class AddedPositions(nn.Module):
    """tokens + [sin, cos] of the angles along each axis, the last axis first; d axes share the width equally.

    Vaswani et al. 2017, section 3.5, for one axis; Dosovitskiy et al. 2021 and Peebles & Xie 2023 for two. What is left
    of a width that 2 d does not divide stays 0. tokens (B, N, width).
    """

    table: Tensor

    def __init__(self, grid: tuple[int, ...], width: int) -> None:
        super().__init__()
        phases = angles(grid, width // (2 * len(grid)))
        waves = torch.cat([phases.sin(), phases.cos()], dim=-1).flatten(1)
        table = nn.functional.pad(waves, (0, width - waves.shape[1])).float()
        self.register_buffer("table", table, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.table


class RotaryPositions(nn.Module):
    """Pairs of features rotated by the token's angles, so that a product of two depends on the distance alone.

    Su et al. 2024, equation 34 ("RoPE"), here with an equal share of the pairs for each axis. The first ``extra``
    tokens, which have no place, and what is left of features that 2 d does not divide are not rotated.
    heads (B, num_heads, extra + N, features).
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, grid: tuple[int, ...], features: int, extra: int = 0) -> None:
        super().__init__()
        phases = nn.functional.pad(angles(grid, features // (2 * len(grid))).flatten(1), (0, 0, extra, 0))
        self.register_buffer("cosines", phases.cos().float(), persistent=False)
        self.register_buffer("sines", phases.sin().float(), persistent=False)

    def forward(self, heads: Tensor) -> Tensor:
        pairs = self.cosines.shape[1]
        first, second, rest = heads.split([pairs, pairs, heads.shape[-1] - 2 * pairs], dim=-1)
        turned = first * self.cosines - second * self.sines, first * self.sines + second * self.cosines
        return torch.cat([*turned, rest], dim=-1)
