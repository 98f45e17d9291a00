"""Patches of an example as tokens, along any number of axes: sequences, images, video."""

from __future__ import annotations

from torch import Tensor

from diffusion_fw.registry import ConfigError


def patch_grid(shape: tuple[int, ...], patch: int) -> tuple[int, ...]:
    """The number of patches along each axis of (C, *sizes); ConfigError where ``patch`` does not divide a size."""
    sizes = shape[1:]
    if any(size % patch for size in sizes):
        fitting = "x".join(str(-(-size // patch) * patch) for size in sizes)
        raise ConfigError(
            f"network.patch={patch}: does not divide the sides of an example of {'x'.join(map(str, sizes))}; "
            f"the next size that fits is {fitting}; change network.patch or the size of data=..."
        )
    return tuple(size // patch for size in sizes)


def to_patches(x: Tensor, patch: int) -> Tensor:
    """(B, C, *sizes) -> (B, N, C patch^d): N patches in row-major order, the values of each by channel, then place."""
    axes = x.dim() - 2
    for axis in range(axes):
        x = x.unflatten(2 + 2 * axis, (-1, patch))
    x = x.permute(0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2))
    return x.flatten(axes + 1).flatten(1, axes)


def from_patches(tokens: Tensor, patch: int, grid: tuple[int, ...]) -> Tensor:
    """The inverse of to_patches for prod(grid) patches: (B, N, C patch^d) -> (B, C, *sizes), contiguous."""
    axes = len(grid)
    x: Tensor = tokens.unflatten(2, (-1, *[patch] * axes)).unflatten(1, grid)
    x = x.permute(0, axes + 1, *(place for axis in range(axes) for place in (axis + 1, axis + axes + 2)))
    for axis in range(axes):
        x = x.flatten(axis + 2, axis + 3)
    return x.contiguous()
