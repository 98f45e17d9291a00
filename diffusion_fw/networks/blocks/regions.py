"""Which tokens of an image attend to which: all, those of a window, or those of a neighborhood.

A region maps query, key and value (B, num_heads, H W, features) to the mixed values of the same shape. Queries are not
scaled. Windows and neighborhoods gather the tokens of tiles, so that their cost grows with the number of tokens only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

TILE = 8
"""The side of a tile of queries, whose neighborhoods are gathered at once."""


class Everything(nn.Module):
    """Every token attends to all."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(query, key, value, scale=1.0)


class Tiles(nn.Module):
    """The queries of each tile attend to the keys of that tile, where the mask is true or there is none.

    ``queries`` (tiles, Q) and ``keys`` (tiles, K) are indices of tokens, ``mask`` (tiles, Q, K). Every token is a query
    at least once.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor | None
    back: Tensor

    def __init__(self, queries: Tensor, keys: Tensor, mask: Tensor | None, tokens: int) -> None:
        super().__init__()
        places = torch.arange(queries.numel())
        # A token that is in several tiles has the same result in each.
        back = torch.zeros(tokens, dtype=torch.int64).scatter(0, queries.flatten(), places)
        for name, table in (("queries", queries), ("keys", keys), ("mask", mask), ("back", back)):
            self.register_buffer(name, table, persistent=False)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        num_heads = query.shape[1]
        query = query[:, :, self.queries].flatten(1, 2)
        key, value = (heads[:, :, self.keys].flatten(1, 2) for heads in (key, value))
        mask = None if self.mask is None else self.mask.repeat(num_heads, 1, 1)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=1.0)
        result: Tensor = mixed.unflatten(1, (num_heads, -1)).flatten(2, 3)[:, :, self.back]
        return result


class Windows(Tiles):
    """Windows of size x size tokens, moved up and left by ``shift``; those beyond an edge are of the other edge.

    Liu et al. 2021, section 3.2. A token that comes from the other edge attends only to others that do.
    """

    def __init__(self, grid: tuple[int, int], size: int, shift: int) -> None:
        starts = [torch.arange(0, side, size) - shift for side in grid]
        places = [start[:, None] + torch.arange(size) for start in starts]
        tokens = _outer([place % side for place, side in zip(places, grid, strict=True)], grid)
        alike = [(place[:, :, None] < 0) == (place[:, None] < 0) for place in places]
        super().__init__(tokens, tokens, _both(alike) if shift else None, grid[0] * grid[1])


class Neighborhoods(Tiles):
    """The size x size tokens around each, an odd size; near an edge the nearest ones that are in the image.

    Hassani et al. 2023. Each tile of queries gathers the tokens of all of its neighborhoods.
    """

    def __init__(self, grid: tuple[int, int], size: int) -> None:
        rows, spans, near = [], [], []
        for side in grid:
            tile, span = min(TILE, side), min(TILE + size - 1, side)
            first = torch.arange(0, side, tile).clamp(max=side - tile)
            row = first[:, None] + torch.arange(tile)
            begin = (row - size // 2).clamp(0, side - size)
            reach = begin[:, :1].clamp(max=side - span) + torch.arange(span)
            rows.append(row)
            spans.append(reach)
            near.append((reach[:, None] >= begin[:, :, None]) & (reach[:, None] < begin[:, :, None] + size))
        super().__init__(_outer(rows, grid), _outer(spans, grid), _both(near), grid[0] * grid[1])


def _outer(axes: list[Tensor], grid: tuple[int, int]) -> Tensor:
    """The indices of tokens at (rows[a, i], columns[b, j]), for each pair of tiles: (a b, i j)."""
    rows, columns = axes
    return (rows[:, None, :, None] * grid[1] + columns[None, :, None]).flatten(2).flatten(0, 1)


def _both(axes: list[Tensor]) -> Tensor:
    """Where both rows[a, i, k] and columns[b, j, l] are true: (a b, i j, k l)."""
    rows, columns = axes
    both = rows[:, None, :, None, :, None] & columns[None, :, None, :, None]
    return both.flatten(4).flatten(2, 3).flatten(0, 1)
