"""The hourglass diffusion transformer, HDiT (``image_transformer_v2`` of k-diffusion)."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal, cast

from torch import Tensor, nn

from diffusion_fw.networks.blocks.embeddings import class_embedding
from diffusion_fw.networks.blocks.hourglass import (
    AUGMENTATIONS,
    EPS,
    Attention,
    AxialRotations,
    Block,
    Join,
    Level,
    Mapping,
    Merge,
    Split,
)
from diffusion_fw.networks.blocks.regions import Everything, Neighborhoods, Windows
from diffusion_fw.networks.blocks.zeroed import zeroed
from diffusion_fw.registry import ConfigError, OpenFraction, Range, Runtime, Size, register

AttentionKind = Literal["global", "neighborhood", "shifted-window", "none"]


@register("network", "hdit")
class HDiT(nn.Module):
    """An hourglass of transformers on patches, HDiT (Crowson et al. 2024), ``image_transformer_v2`` in k-diffusion.

    Patches of side ``patch`` are the tokens of level 0, and 2 x 2 tokens of a level are one of the next. Level i has
    tokens of widths[i] features and depths[i] blocks on the way down and as many on the way up, the last level
    depths[i] blocks in all. ``attention`` of each level is over all tokens (global), over the kernel_size x kernel_size
    ones around each (neighborhood; Hassani et al. 2023), over windows of window_size x window_size, of which every
    second block's are shifted by half (shifted-window; Liu et al. 2021), or none. Its heads have num_head_channels
    features, the perceptrons mlp_ratio times the width. ``dropout`` is of all levels, or of each.

    Random Fourier features of the label, log(sigma) / 4 under parameterization=edm, and of the 9 labels of
    augmentation=edm, which are 0 in sampling, and the class are mapped by ``mapping_depth`` blocks of ``mapping_width``
    features, which scale every norm. The defaults are those of k-diffusion for CIFAR-10. Train with label_dropout=0.1
    for classifier-free guidance.

    network(x, label, cond, augmentation): x (B, C, H, W), label (B,), cond (B,) classes or None, augmentation (B, 9) or
    None -> (B, outputs C, H, W), which is 0 before training. class_conditional "auto" is true for data with classes.

    Raises ConfigError for data other than images, a size that patches, levels and windows do not divide or that is
    smaller than a neighborhood, levels of different number in widths, depths and attention, heads that do not divide
    the widths, an even kernel_size, an odd mapping_width, and class_conditional on data without classes.
    """

    augment_dim = AUGMENTATIONS

    def __init__(
        self,
        shape: Runtime[tuple[int, ...]],
        num_classes: Runtime[int] = 0,
        outputs: Runtime[int] = 1,
        widths: tuple[Size, ...] = (256, 512),
        depths: tuple[Size, ...] = (2, 4),
        attention: tuple[AttentionKind, ...] = ("global", "global"),
        kernel_size: Size = 7,
        window_size: Size = 8,
        num_head_channels: Size = 64,
        patch: Size = 2,
        mlp_ratio: Size = 3,
        mapping_width: Annotated[int, Range(2, 1_000_000)] = 256,
        mapping_depth: Size = 2,
        dropout: OpenFraction | tuple[OpenFraction, ...] = 0.05,
        class_conditional: bool | Literal["auto"] = "auto",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        rates = dropout if isinstance(dropout, tuple) else (dropout,) * len(widths)
        _check_levels(widths, depths, attention, rates)
        _check_widths(widths, num_head_channels, mapping_width, kernel_size)
        grids = _grids(shape, patch, attention, kernel_size, window_size)
        self.checkpointing = checkpointing
        self.class_conditional = num_classes > 0 if class_conditional == "auto" else class_conditional
        classes = class_embedding(self.class_conditional, num_classes, mapping_width)
        self.mapping = Mapping(mapping_width, mapping_depth, mlp_ratio * mapping_width, classes)
        self.enter = Merge(shape[0], widths[0], patch)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        last = len(widths) - 1
        for i, (width, depth, kind, rate) in enumerate(zip(widths, depths, attention, rates, strict=True)):
            rotate, regions = _places(
                grids[i], kind, width // num_head_channels, num_head_channels, kernel_size, window_size
            )
            for way, start in ((self.down, 0), (self.up, depth)):
                blocks = [
                    Block(
                        Attention(width, num_head_channels, mapping_width, rate) if kind != "none" else None,
                        *(width, mlp_ratio * width, mapping_width, rate),
                    )
                    for _ in range(depth)
                ]
                way.append(Level(blocks, rotate, regions, start))
                if i == last:
                    break
        pairs = list(itertools.pairwise(widths))
        self.merges = nn.ModuleList(Merge(width, below, 2) for width, below in pairs)
        self.joins = nn.ModuleList(Join(below, width) for width, below in pairs)
        self.norm = nn.RMSNorm(widths[0], eps=EPS)
        self.leave = Split(widths[0], outputs * shape[0], patch)
        zeroed(self.leave)

    def forward(
        self, x: Tensor, label: Tensor, cond: Tensor | None = None, augmentation: Tensor | None = None
    ) -> Tensor:
        embedding = self.mapping(label, cond, augmentation)
        h = self.enter(x.movedim(1, -1))
        skips = []
        for level, merge in zip(self.down, self.merges, strict=False):
            h = level(h, embedding, self.checkpointing)
            skips.append(h)
            h = merge(h)
        h = self.down[-1](h, embedding, self.checkpointing)
        for level, join in zip(reversed(self.up), reversed(self.joins), strict=True):
            h = level(join(h, skips.pop()), embedding, self.checkpointing)
        # Contiguous, so that noise drawn like the output does not depend on the memory format of the weights.
        return cast(Tensor, self.leave(self.norm(h.float())).movedim(-1, 1).contiguous())


def _places(
    grid: tuple[int, int], kind: AttentionKind, num_heads: int, head: int, kernel_size: int, window_size: int
) -> tuple[nn.Module, list[nn.Module]]:
    """The rotations of a level and the regions of its blocks, in turn."""
    if kind == "none":
        return nn.Identity(), [nn.Identity()]
    if kind == "shifted-window":
        found: list[nn.Module] = [Windows(grid, window_size, shift) for shift in (0, window_size // 2)]
    else:
        found = [Everything() if kind == "global" else Neighborhoods(grid, kernel_size)]
    return AxialRotations(grid, num_heads, head), found


def _check_levels(
    widths: tuple[int, ...], depths: tuple[int, ...], attention: tuple[str, ...], dropout: tuple[float, ...]
) -> None:
    """Raise ConfigError where the keys do not have the same number of levels."""
    counts = {"widths": len(widths), "depths": len(depths), "attention": len(attention), "dropout": len(dropout)}
    if not widths or len(set(counts.values())) > 1:
        raise ConfigError(
            f"{', '.join(f'network.{key} has {count}' for key, count in counts.items())} levels; give each one entry "
            "for every level"
        )


def _check_widths(widths: tuple[int, ...], head: int, mapping_width: int, kernel_size: int) -> None:
    """Raise ConfigError for numbers that do not divide each other as they must."""
    if head % 8:
        raise ConfigError(
            f"network.num_head_channels={head}: must be a multiple of 8, for the rotations along two axes of half of it"
        )
    if wrong := [width for width in widths if width % head]:
        raise ConfigError(
            f"network.widths={tuple(widths)}: {wrong[0]} is no multiple of network.num_head_channels={head}; change one"
        )
    if mapping_width % 2:
        raise ConfigError(f"network.mapping_width={mapping_width}: must be even, for a cosine and a sine of each wave")
    if kernel_size % 2 == 0:
        raise ConfigError(f"network.kernel_size={kernel_size}: must be odd, as a neighborhood has a middle")


def _grids(
    shape: tuple[int, ...], patch: int, attention: tuple[str, ...], kernel_size: int, window_size: int
) -> list[tuple[int, int]]:
    """The tokens of each level along both axes; ConfigError where an image has no such levels."""
    if len(shape) != 3:
        raise ConfigError(
            f"network=hdit needs images (C, H, W), but an example of data=... has the shape {tuple(shape)}; "
            "choose network=mlp or other data"
        )
    # The side of a token of each level in pixels, as far as images have so many levels.
    tokens = [patch * 2 ** min(i, 64) for i in range(len(attention))]
    windows = [token * window_size for token, kind in zip(tokens, attention, strict=True) if kind == "shifted-window"]
    least = [token * kernel_size for token, kind in zip(tokens, attention, strict=True) if kind == "neighborhood"]
    unit, smallest = math.lcm(tokens[-1], *windows), max([0, *least])
    if any(side % unit or side < smallest for side in shape[1:]):
        found = "x".join(map(str, shape[1:]))
        fitting = "x".join(str(-(-max(side, smallest) // unit) * unit) for side in shape[1:])
        raise ConfigError(
            f"network.widths has {len(attention)} levels, which with network.patch={patch} and network.attention need "
            f"sides that are multiples of {unit}{f', from {smallest} on' if least else ''}, but an example of data=... "
            f"is {found}; the next size that fits is {fitting}; choose data=... of such a size, fewer levels, or "
            "another network.window_size or network.kernel_size"
        )
    return [(shape[1] // token, shape[2] // token) for token in tokens]
