"""The two halves of DDPM's U-Net, which the networks that followed it share, their layers, and the sizes that fit them.

The halves take their layers from two functions: ``stage(level, channels, out_channels)``, and ``resample(channels)``
for the layer between two levels. Both layers take (h, embedding).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion_fw.networks.blocks.ddpm_layers import (
    FACTORS,
    Attention,
    Doubled,
    Downsample,
    Resampled,
    ResidualBlock,
    Upsample,
    halved,
)
from diffusion_fw.registry import ConfigError

MakeStage = Callable[[int, int, int], nn.Module]
MakeResample = Callable[[int], nn.Module]


class Stage(nn.Module):
    """A residual block and the attention after it, if any; recomputed in training's backward pass if checkpointing."""

    def __init__(self, block: nn.Module, attention: nn.Module | None, checkpointing: bool) -> None:
        super().__init__()
        self.block = block
        self.attention = attention or nn.Identity()
        self.checkpointing = checkpointing

    def _run(self, h: Tensor, embedding: Tensor) -> Tensor:
        result: Tensor = self.attention(self.block(h, embedding))
        return result

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(self._run, h, embedding, use_reentrant=False))
        return self._run(h, embedding)


@dataclass(frozen=True)
class Layers:
    """Makes the layers of a network from its parameters."""

    dims: int
    features: int
    """Of the embedding."""
    eps: float
    """Of the group norms."""
    attended: Sequence[bool]
    """Whether the stages of each level have attention."""
    num_heads: Callable[[int], int]
    """num_heads(channels) of an attention layer."""
    attention_layer: type[Attention] = Attention
    heads_first: bool = False
    dropout: float = 0.0
    scale_shift_norm: bool = False
    resblock_updown: bool = False
    """Whether residual blocks change the size between levels, instead of convolutions."""
    conv_resample: bool = True
    """Without it, and without resblock_updown, levels are only averaged and repeated."""
    checkpointing: bool = False

    def block(self, channels: int, out_channels: int, resample: nn.Module | None = None) -> ResidualBlock:
        """A residual block."""
        return ResidualBlock(
            channels,
            out_channels,
            self.features,
            eps=self.eps,
            dims=self.dims,
            dropout=self.dropout,
            scale_shift_norm=self.scale_shift_norm,
            resample=resample,
        )

    def attention(self, channels: int) -> Attention:
        """An attention layer."""
        return self.attention_layer(channels, self.num_heads(channels), eps=self.eps, heads_first=self.heads_first)

    def stage(self, level: int, channels: int, out_channels: int) -> Stage:
        """A stage of a level."""
        attention = self.attention(out_channels) if self.attended[level] else None
        return Stage(self.block(channels, out_channels), attention, self.checkpointing)

    def middle(self, channels: int) -> nn.ModuleList:
        """The two stages between the way down and the way up, the first with attention."""
        blocks = self.block(channels, channels), self.block(channels, channels)
        first = Stage(blocks[0], self.attention(channels), self.checkpointing)
        return nn.ModuleList([first, Stage(blocks[1], None, self.checkpointing)])

    def downsample(self, channels: int) -> nn.Module:
        """The layer before a coarser level."""
        if self.resblock_updown:
            return Stage(self.block(channels, channels, halved(self.dims)), None, self.checkpointing)
        return Downsample(channels, self.dims) if self.conv_resample else Resampled(halved(self.dims))

    def upsample(self, channels: int) -> nn.Module:
        """The layer before a finer level."""
        if self.resblock_updown:
            return Stage(self.block(channels, channels, Doubled(self.dims)), None, self.checkpointing)
        return Upsample(channels, self.dims) if self.conv_resample else Resampled(Doubled(self.dims))


class Encoder(nn.Module):
    """num_res_blocks stages a level, with ``downsample`` between levels: from h to every feature on the way down.

    Level i has widths[i] channels. The first of the features is h itself, of ``channels``; ``widths`` lists the
    channels of them all.
    """

    def __init__(
        self, channels: int, widths: Sequence[int], num_res_blocks: int, stage: MakeStage, downsample: MakeResample
    ) -> None:
        super().__init__()
        self.widths = [channels]
        self.levels, self.downsample = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            if i > 0:
                self.downsample.append(downsample(channels))
                self.widths.append(channels)
            level = nn.ModuleList()
            for _ in range(num_res_blocks):
                level.append(stage(i, channels, width))
                channels = width
                self.widths.append(channels)
            self.levels.append(level)

    def forward(self, h: Tensor, embedding: Tensor) -> list[Tensor]:
        features = [h]
        for i, level in enumerate(self.levels):
            if i > 0:
                features.append(self.downsample[i - 1](features[-1], embedding))
            for stage in cast(nn.ModuleList, level):
                features.append(stage(features[-1], embedding))
        return features


class Decoder(nn.Module):
    """num_res_blocks + 1 stages a level, each on h and a feature of the way down, with ``upsample`` between levels.

    The first level is the coarsest, and ``skips`` lists the channels of the features, which are taken from the end.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        skips: Sequence[int],
        num_res_blocks: int,
        stage: MakeStage,
        upsample: MakeResample,
    ) -> None:
        super().__init__()
        self.levels, self.upsample = nn.ModuleList(), nn.ModuleList()
        left = list(skips)
        for i, width in reversed(list(enumerate(widths))):
            level = nn.ModuleList()
            for _ in range(num_res_blocks + 1):
                level.append(stage(i, channels + left.pop(), width))
                channels = width
            self.levels.append(level)
            if i > 0:
                self.upsample.append(upsample(channels))

    def forward(self, h: Tensor, features: Sequence[Tensor], embedding: Tensor) -> Tensor:
        left = list(features)
        for i, level in enumerate(self.levels):
            if i > 0:
                h = self.upsample[i - 1](h, embedding)
            for stage in cast(nn.ModuleList, level):
                h = stage(torch.cat([h, left.pop()], dim=1), embedding)
        return h


def check_dims(name: str, shape: tuple[int, ...], dims: Sequence[int]) -> None:
    """ConfigError of ``network=name`` for examples whose number of axes besides the channels is none of ``dims``."""
    if len(shape) - 1 not in dims:
        kinds = {1: "sequences (C, L)", 2: "images (C, H, W)", 3: "videos (C, T, H, W)"}
        raise ConfigError(
            f"network={name} needs {' or '.join(kinds[count] for count in dims)}, but an example of data=... has the "
            f"shape {tuple(shape)}; choose network=mlp or other data"
        )


def level_sizes(
    name: str,
    shape: tuple[int, ...],
    channel_mult: Sequence[float],
    attention_resolutions: Sequence[int],
    dims: Sequence[int] = (2,),
) -> list[int]:
    """The longest side at every level, of those that levels halve.

    Raises ConfigError for data of other ``dims``, for sides that the levels do not divide, and for an attention
    resolution that no level has.
    """
    check_dims(name, shape, dims)
    if not channel_mult:
        raise ConfigError("network.channel_mult=(): must have at least one factor, one for each level")
    halved = [side for side, factor in zip(shape[1:], FACTORS[len(shape) - 1], strict=True) if factor > 1]
    levels = len(channel_mult)
    # More levels than that fit no data.
    unit = 2 ** min(levels - 1, 32)
    if any(side % unit for side in halved):
        common = math.gcd(*halved)
        most = (common & -common).bit_length()
        raise ConfigError(
            f"network.channel_mult={tuple(channel_mult)}: {levels} levels divide sides that are multiples of {unit}, "
            f"but an example of data=... is {_times(halved)}; the next size that fits is "
            f"{_times(-(-side // unit) * unit for side in halved)}; choose data=... of such a size, or give "
            f"network.channel_mult at most {most} factor{'s' if most > 1 else ''}"
        )
    sizes = [max(halved) >> level for level in range(levels)]
    absent = [str(size) for size in attention_resolutions if size not in sizes]
    if absent:
        raise ConfigError(
            f"network.attention_resolutions={tuple(attention_resolutions)}: no level has size {', '.join(absent)}; "
            f"an example of {_times(halved)} and {levels} levels give sizes {', '.join(map(str, sizes))}"
        )
    return sizes


def level_widths(channels: int, channel_mult: Sequence[float]) -> list[int]:
    """The channels of every level, rounded down; ConfigError where a level has none."""
    widths = [int(channels * mult) for mult in channel_mult]
    if 0 in widths:
        raise ConfigError(
            f"network.channel_mult={tuple(channel_mult)}: a factor leaves no channel of network.channels={channels}; "
            "raise one of the two"
        )
    return widths


def heads(channels: int, num_heads: int, num_head_channels: int | None = None) -> int:
    """The number of heads in an attention layer of this width; ConfigError where they do not divide its channels."""
    key, value = ("num_heads", num_heads) if num_head_channels is None else ("num_head_channels", num_head_channels)
    if channels % value:
        raise ConfigError(
            f"network.{key}={value}: does not divide the {channels} channels of an attention layer; "
            f"change network.{key} or network.channels"
        )
    return num_heads if num_head_channels is None else channels // num_head_channels


def _times(sides: Iterable[int]) -> str:
    return "x".join(map(str, sides))
