"""The layers of DDPM's U-Net and of the networks that followed it: residual blocks, attention, resampling.

They work on h (B, C, L), (B, C, H, W) or (B, C, T, H, W), in 1, 2 or 3 ``dims``; where H and W are halved, T stays.
Layers between levels take the time embedding too, as a residual block does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffusion_fw.networks.blocks.zeroed import zeroed

CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOLS: dict[int, type[nn.Module]] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
FACTORS: dict[int, tuple[int, ...]] = {1: (2,), 2: (2, 2), 3: (1, 2, 2)}
"""By what each side is divided from one level to the next."""


def convolution(
    dims: int, channels: int, out_channels: int, size: int = 3, stride: tuple[int, ...] | int = 1
) -> nn.Module:
    """A convolution of odd ``size`` that keeps the sides, or divides them by its stride."""
    return CONVOLUTIONS[dims](channels, out_channels, size, stride=stride, padding=size // 2)


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """GroupNorm with the papers' 32 groups; where 32 does not divide the channels, fewer, of at least 4 channels."""
    most = 32 if channels % 32 == 0 else max(1, min(32, channels // 4))
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels, eps=eps)


class Doubled(nn.Module):
    """Repeats every value along the sides that a level halves: the nearest neighbour on the finer grid."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.factors = FACTORS[dims]

    def forward(self, h: Tensor) -> Tensor:
        size = [side * factor for side, factor in zip(h.shape[2:], self.factors, strict=True)]
        return nn.functional.interpolate(h, size=size, mode="nearest")


def halved(dims: int) -> nn.Module:
    """The mean of every two values along the sides that a level halves."""
    return POOLS[dims](FACTORS[dims])


class Resampled(nn.Module):
    """h on the grid of ``layer``, whatever the embedding: halved or doubled without a convolution."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        result: Tensor = self.layer(h)
        return result


class Upsample(nn.Module):
    """conv(doubled(h)), whatever the embedding."""

    def __init__(self, channels: int, dims: int = 2) -> None:
        super().__init__()
        self.doubled = Doubled(dims)
        self.conv = convolution(dims, channels, channels)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        result: Tensor = self.conv(self.doubled(h))
        return result


class Downsample(nn.Module):
    """A convolution that halves h, whatever the embedding."""

    def __init__(self, channels: int, dims: int = 2) -> None:
        super().__init__()
        self.conv = convolution(dims, channels, channels, stride=FACTORS[dims])

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        result: Tensor = self.conv(h)
        return result


class ResidualBlock(nn.Module):
    """skip(h) + conv(silu(norm(conv(silu(norm(h))) + W e))) with e = silu(time embedding); the last conv starts at 0.

    Ho et al. 2020, appendix B. With scale_shift_norm: norm(.) (1 + scale) + shift, (scale, shift) = W e, in place of
    the sum (Nichol & Dhariwal 2021, appendix A). ``resample`` acts on h and before the first convolution (the BigGAN
    blocks of Song et al. 2021 and Dhariwal & Nichol 2021). h (B, channels, ...), e (B, features) ->
    (B, out_channels, ...).
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        features: int,
        *,
        eps: float,
        dims: int = 2,
        dropout: float = 0.0,
        scale_shift_norm: bool = False,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift_norm = scale_shift_norm
        self.resample = resample or nn.Identity()
        self.norm1 = group_norm(channels, eps)
        self.conv1 = convolution(dims, channels, out_channels)
        self.embedding = nn.Linear(features, out_channels * (2 if scale_shift_norm else 1))
        self.norm2 = group_norm(out_channels, eps)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = zeroed(convolution(dims, out_channels, out_channels))
        self.skip = nn.Identity() if channels == out_channels else convolution(dims, channels, out_channels, 1)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        residual = self.conv1(self.resample(nn.functional.silu(self.norm1(h))))
        modulation = self.embedding(embedding).unflatten(1, (-1, *[1] * (h.ndim - 2)))
        if self.scale_shift_norm:
            scale, shift = modulation.chunk(2, dim=1)
            residual = torch.addcmul(shift, self.norm2(residual), 1 + scale)
        else:
            residual = self.norm2(residual + modulation)
        result: Tensor = self.skip(self.resample(h)) + self.conv2(self.dropout(nn.functional.silu(residual)))
        return result


def attend(qkv: Tensor, num_heads: int, *, heads_first: bool = False, dropout: float = 0.0) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V in num_heads heads: qkv (B, L, 3 C) -> (B, L, C).

    The 3 C features are the query, the key and the value of all heads, or with ``heads_first`` of each head in turn.
    ``dropout`` is the share of the weights of V that are dropped.
    """
    if heads_first:
        query, key, value = qkv.unflatten(2, (num_heads, 3, -1)).permute(3, 0, 2, 1, 4)
    else:
        query, key, value = qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    return mixed.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """h + W_o softmax(Q K^T / sqrt(d)) V over all positions of norm(h), in num_heads heads; W_o starts at 0.

    Ho et al. 2020, appendix B (one head); Nichol & Dhariwal 2021, appendix A (several). h (B, C, ...) keeps its shape.
    """

    def __init__(self, channels: int, num_heads: int, *, eps: float, heads_first: bool = False) -> None:
        super().__init__()
        self.num_heads, self.heads_first = num_heads, heads_first
        self.norm = group_norm(channels, eps)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, h: Tensor) -> Tensor:
        tokens = self.norm(h).flatten(2).transpose(1, 2)
        mixed = attend(self.qkv(tokens), self.num_heads, heads_first=self.heads_first)
        result: Tensor = h + self.out(mixed).transpose(1, 2).unflatten(2, h.shape[2:])
        return result


def space_then_time(h: Tensor, space: Callable[[Tensor], Tensor], time: Callable[[Tensor], Tensor]) -> Tensor:
    """h (B, C, T, H, W) after ``space`` of every frame (N, C, H, W), and then ``time`` at every place (M, C, T)."""
    length, height, width = h.shape[2:]
    frames = space(h.transpose(1, 2).flatten(0, 1)).unflatten(0, (-1, length))
    places: Tensor = time(frames.permute(0, 3, 4, 2, 1).flatten(0, 2)).unflatten(0, (-1, height, width))
    return places.permute(0, 3, 4, 1, 2)


class SpaceTimeAttention(Attention):
    """Attention over H and W in each frame, then over T at each place: factorized, instead of over all positions.

    Ho et al. 2022, section 3. Each has its own norm, of the positions that it attends over. The one over T is the layer
    ``time``, and the other has the names of Attention, so that weights of images fit; W_o of ``time`` starts at 0.
    The cost is T (H W)^2 + H W T^2 instead of (T H W)^2. h (B, C, T, H, W) keeps its shape.
    """

    def __init__(self, channels: int, num_heads: int, *, eps: float, heads_first: bool = False) -> None:
        super().__init__(channels, num_heads, eps=eps, heads_first=heads_first)
        self.time = Attention(channels, num_heads, eps=eps, heads_first=heads_first)

    def forward(self, h: Tensor) -> Tensor:
        return space_then_time(h, super().forward, self.time)
