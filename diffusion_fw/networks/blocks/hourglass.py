"""The layers of HDiT: attention over regions of an image, adaptive RMS norms, and merging and splitting of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion_fw.networks.blocks.embeddings import FourierFeatures, in_float32
from diffusion_fw.networks.blocks.zeroed import zeroed

AUGMENTATIONS = 9
"""The labels of EDM's augmentation."""
EPS = 1e-6
START = 10.0
"""Of the scale of a head's attention."""


class AugmentationEmbedding(nn.Module):
    """W [cos(2 pi V a), sin(2 pi V a)] of the augmentation labels a (B, 9): (B, features)."""

    frequencies: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(features // 2, AUGMENTATIONS))
        self.linear = nn.Linear(features, features, bias=False)

    def forward(self, labels: Tensor) -> Tensor:
        angles = 2 * math.pi * labels.to(self.frequencies) @ self.frequencies.T
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

    def forward(self, label: Tensor, cond: Tensor | None, augmentation: Tensor | None = None) -> Tensor:
        with in_float32(label.device.type):
            told = label.new_zeros(len(label), AUGMENTATIONS) if augmentation is None else augmentation
            h = self.time(self.waves(label)) + self.augmentation(told)
            h = self.enter(self.classes(h, cond))
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
