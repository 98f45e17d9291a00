"""The hourglass diffusion transformer, HDiT (``image_transformer_v2`` of k-diffusion)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion_fw.networks.blocks.embeddings import FourierFeatures, class_embedding, in_float32
from diffusion_fw.networks.blocks.regions import Everything, Neighborhoods, Windows
from diffusion_fw.networks.blocks.zeroed import zeroed
from diffusion_fw.registry import ConfigError, OpenFraction, Range, Runtime, Size, register

AUGMENTATIONS = 9
"""The labels of EDM's augmentation."""
EPS = 1e-6
START = 10.0
"""Of the scale of a head's attention."""

AttentionKind = Literal["global", "neighborhood", "shifted-window", "none"]


class AugmentationEmbedding(nn.Module):
    """W [cos(2 pi V a), sin(2 pi V a)] of the augmentation labels a, which are 0 here: (1, features)."""

    frequencies: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(features // 2, AUGMENTATIONS))
        self.linear = nn.Linear(features, features, bias=False)

    def forward(self) -> Tensor:
        angles = self.frequencies.new_zeros(1, AUGMENTATIONS) @ self.frequencies.T
        result: Tensor = self.linear(torch.cat([angles.cos(), angles.sin()], dim=1))
        return result


class GEGLU(nn.Module):
    """W_2 dropout(u gelu(g)), (u, g) = W_1 h, without biases; W_2 starts at 0. h (..., width).

    Shazeer 2020, equation 6.
    """

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(width, 2 * hidden, bias=False)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.second = zeroed(nn.Linear(hidden, width, bias=False))

    def forward(self, h: Tensor) -> Tensor:
        value, gate = self.first(h).chunk(2, dim=-1)
        result: Tensor = self.second(self.dropout(value * nn.functional.gelu(gate)))
        return result


class MappingBlock(nn.Module):
    """e + mlp(norm(e)); e (B, width)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.mlp = GEGLU(width, hidden)

    def forward(self, embedding: Tensor) -> Tensor:
        result: Tensor = embedding + self.mlp(self.norm(embedding))
        return result


class Mapping(nn.Module):
    """The embedding of label, augmentation and class, after ``depth`` blocks: (B,) -> (B, width), in float32."""

    def __init__(self, width: int, depth: int, hidden: int, classes: nn.Module) -> None:
        super().__init__()
        self.waves = FourierFeatures(width // 2, 1.0, cosine_first=True)
        self.time = nn.Linear(width, width, bias=False)
        self.augmentation = AugmentationEmbedding(width)
        self.classes = classes
        self.enter = nn.RMSNorm(width, eps=EPS)
        self.blocks = nn.ModuleList(MappingBlock(width, hidden) for _ in range(depth))
        self.leave = nn.RMSNorm(width, eps=EPS)

    def forward(self, label: Tensor, cond: Tensor | None) -> Tensor:
        with in_float32(label.device.type):
            h = self.enter(self.classes(self.time(self.waves(label)) + self.augmentation(), cond))
            for block in self.blocks:
                h = block(h)
            return cast(Tensor, self.leave(h))


class AdaptiveRMSNorm(nn.Module):
    """norm(h) (1 + W e); W starts at 0. h (B, H, W, width), e (B, features)."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=EPS, elementwise_affine=False)
        self.modulation = zeroed(nn.Linear(features, width, bias=False))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        result: Tensor = self.norm(h) * (1 + self.modulation(embedding)[:, None, None])
        return result


def rotary_frequencies(num_heads: int, features: int) -> Tensor:
    """pi to 10 pi in equal ratios, without the end, dealt out to the heads: (num_heads, features / 8), float32."""
    count = num_heads * features // 8
    line = torch.linspace(math.log(math.pi), math.log(10 * math.pi), count + 1)[:-1].exp()
    return line.view(-1, num_heads).T.contiguous()


class AxialRotations(nn.Module):
    """Turns the first half of the features of a head by the place in the image, times each of the frequencies.

    Crowson et al. 2024, after Su et al. 2024. The longer side of the image is from -1 to 1. The second
    half is left as it is. heads (B, num_heads, H W, features).
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, grid: tuple[int, int], num_heads: int, features: int) -> None:
        super().__init__()
        frequencies = rotary_frequencies(num_heads, features).double()
        places = ((2 * torch.arange(side, dtype=torch.float64) + 1 - side) / max(grid) for side in grid)
        at = torch.stack(torch.meshgrid(*places, indexing="ij"), dim=-1).flatten(0, 1)
        angles = (at[None, :, :, None] * frequencies[:, None, None]).flatten(2)
        self.register_buffer("cosines", angles.cos().float(), persistent=False)
        self.register_buffer("sines", angles.sin().float(), persistent=False)

    def forward(self, heads: Tensor) -> Tensor:
        pairs = self.cosines.shape[-1]
        first, second, rest = heads.split([pairs, pairs, heads.shape[-1] - 2 * pairs], dim=-1)
        turned = first * self.cosines - second * self.sines, second * self.cosines + first * self.sines
        return torch.cat([*turned, rest], dim=-1)


class Attention(nn.Module):
    """h + W_o sum softmax(s cos(q, k)) v over the ``region`` of each place, with a learned s of each head.

    (q, k, v) = W norm(h, e); q and k are normalized (Henry et al. 2020) and then rotated. W_o starts at 0.
    h (B, H, W, width), e (B, features).
    """

    def __init__(self, width: int, head: int, features: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = width // head
        self.norm = AdaptiveRMSNorm(width, features)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.scale = nn.Parameter(torch.full((self.num_heads,), START))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.out = zeroed(nn.Linear(width, width, bias=False))

    def forward(self, h: Tensor, embedding: Tensor, rotate: nn.Module, region: nn.Module) -> Tensor:
        tokens = self.qkv(self.norm(h, embedding)).flatten(1, 2)
        query, key, value = tokens.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        # Norms and rotations are in float32 under autocast.
        root = self.scale.sqrt()[:, None, None]
        query, key = (rotate(root * _unit(heads.float())).to(value.dtype) for heads in (query, key))
        mixed = region(query, key, value).transpose(1, 2).flatten(2)
        result: Tensor = h + self.out(self.dropout(mixed)).unflatten(1, h.shape[1:3])
        return result


def _unit(heads: Tensor) -> Tensor:
    return heads * torch.rsqrt(heads.square().sum(dim=-1, keepdim=True) + EPS)


class Block(nn.Module):
    """Attention, if there is one, then h + mlp(norm(h, e)). h (B, H, W, width), e (B, features)."""

    def __init__(self, attention: Attention | None, width: int, hidden: int, features: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.norm = AdaptiveRMSNorm(width, features)
        self.mlp = GEGLU(width, hidden, dropout)

    def forward(self, h: Tensor, embedding: Tensor, rotate: nn.Module, region: nn.Module) -> Tensor:
        if self.attention is not None:
            h = self.attention(h, embedding, rotate, region)
        result: Tensor = h + self.mlp(self.norm(h, embedding))
        return result


class Level(nn.Module):
    """Blocks of one width; where there are shifted windows, those of every second block are shifted."""

    def __init__(self, blocks: Sequence[Block], rotate: nn.Module, regions: Sequence[nn.Module], start: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.rotate = rotate
        self.regions = nn.ModuleList(regions)
        self.start = start

    def forward(self, h: Tensor, embedding: Tensor, checkpointing: bool) -> Tensor:
        for index, block in enumerate(self.blocks, self.start):
            given = h, embedding, self.rotate, self.regions[index % len(self.regions)]
            if checkpointing and torch.is_grad_enabled():
                h = cast(Tensor, checkpoint(block, *given, use_reentrant=False))
            else:
                h = block(*given)
        return h


class Merge(nn.Module):
    """W of the factor x factor tokens of each patch: (B, H, W, width) -> (B, H / factor, W / factor, out_width)."""

    def __init__(self, width: int, out_width: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(width * factor**2, out_width, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        patches = h.unflatten(2, (-1, self.factor)).unflatten(1, (-1, self.factor)).transpose(2, 3)
        result: Tensor = self.linear(patches.flatten(3))
        return result


class Split(nn.Module):
    """factor x factor tokens of each, by W: (B, H, W, width) -> (B, factor H, factor W, out_width)."""

    def __init__(self, width: int, out_width: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(width, out_width * factor**2, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        patches = self.linear(h).unflatten(3, (self.factor, self.factor, -1)).transpose(2, 3)
        return cast(Tensor, patches.flatten(3, 4).flatten(1, 2))


class Join(nn.Module):
    """(1 - f) skip + f split(h), with a learned f that starts at 1/2."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.split = Split(width, out_width, 2)
        self.fraction = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, h: Tensor, skip: Tensor) -> Tensor:
        return torch.lerp(skip, self.split(h), self.fraction.to(skip.dtype))


@register("network", "hdit")
class HDiT(nn.Module):
    """An hourglass of transformers on patches, HDiT (Crowson et al. 2024), ``image_transformer_v2`` in k-diffusion.

    Patches of side ``patch`` are the tokens of level 0, and 2 x 2 tokens of a level are one of the next. Level i has
    tokens of widths[i] features and depths[i] blocks on the way down and as many on the way up, the last level
    depths[i] blocks in all. ``attention`` of each level is over all tokens (global), over the kernel_size x kernel_size
    ones around each (neighborhood; Hassani et al. 2023), over windows of window_size x window_size, of which every
    second block's are shifted by half (shifted-window; Liu et al. 2021), or none. Its heads have num_head_channels
    features, the perceptrons mlp_ratio times the width. ``dropout`` is of all levels, or of each.

    Random Fourier features of the label, log(sigma) / 4 under parameterization=edm, EDM's augmentation labels, which
    are 0 here, and the class are mapped by ``mapping_depth`` blocks of ``mapping_width`` features, which scale every
    norm. The defaults are those of k-diffusion for CIFAR-10. Train with label_dropout=0.1 for classifier-free guidance.

    network(x, label, cond): x (B, C, H, W), label (B,), cond (B,) classes or None -> (B, outputs C, H, W), which is 0
    before training. class_conditional "auto" is true for data with classes.

    Raises ConfigError for data other than images, a size that patches, levels and windows do not divide or that is
    smaller than a neighborhood, levels of different number in widths, depths and attention, heads that do not divide
    the widths, an even kernel_size, an odd mapping_width, and class_conditional on data without classes.
    """

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

    def forward(self, x: Tensor, label: Tensor, cond: Tensor | None = None) -> Tensor:
        embedding = self.mapping(label, cond)
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
