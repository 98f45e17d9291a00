"""The U-Net of DDPM, with improved DDPM's options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion_fw.condition import Condition, class_labels
from diffusion_fw.networks.blocks.conditions import Conditions, CrossAttention, Tokens
from diffusion_fw.networks.blocks.ddpm_layers import FACTORS, convolution, space_then_time
from diffusion_fw.networks.blocks.ddpm_levels import check_dims
from diffusion_fw.networks.blocks.embeddings import TimeEmbedding, class_embedding
from diffusion_fw.networks.blocks.norms import group_norm
from diffusion_fw.networks.blocks.zeroed import zeroed
from diffusion_fw.registry import ConfigError, OpenFraction, PositiveInt, Range, Runtime, Size, register


class ResidualBlock(nn.Module):
    """skip(h) + conv(silu(norm(conv(silu(norm(h))) + W e))) with e = silu(time embedding); the last conv starts at 0.

    Ho et al. 2020, appendix B. With scale_shift_norm: norm(.) (1 + scale) + shift, (scale, shift) = W e, in place of
    the sum (Nichol & Dhariwal 2021, appendix A). h (B, channels, ...) with ``dims`` sides, e (B, features)
    -> (B, out_channels, ...).
    """

    def __init__(
        self, channels: int, out_channels: int, features: int, dropout: float, scale_shift_norm: bool, dims: int = 2
    ) -> None:
        super().__init__()
        self.scale_shift_norm = scale_shift_norm
        self.norm1 = group_norm(channels)
        self.conv1 = convolution(dims, channels, out_channels)
        self.embedding = nn.Linear(features, out_channels * (2 if scale_shift_norm else 1))
        self.norm2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = zeroed(convolution(dims, out_channels, out_channels))
        self.skip = nn.Identity() if channels == out_channels else convolution(dims, channels, out_channels, 1)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        residual = self.conv1(nn.functional.silu(self.norm1(h)))
        modulation = self.embedding(embedding).unflatten(1, (-1, *[1] * (h.ndim - 2)))
        if self.scale_shift_norm:
            scale, shift = modulation.chunk(2, dim=1)
            residual = torch.addcmul(shift, self.norm2(residual), 1 + scale)
        else:
            residual = self.norm2(residual + modulation)
        result: Tensor = self.skip(h) + self.conv2(self.dropout(nn.functional.silu(residual)))
        return result


class Attention(nn.Module):
    """h + W_o softmax(Q K^T / sqrt(d)) V over all positions of norm(h), in num_heads heads; W_o starts at 0.

    Ho et al. 2020, appendix B (one head); Nichol & Dhariwal 2021, appendix A (several). h (B, C, ...) keeps its shape.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, h: Tensor) -> Tensor:
        tokens = self.norm(h).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        result: Tensor = h + self.out(mixed).transpose(1, 2).unflatten(2, h.shape[2:])
        return result


class SpaceTimeAttention(Attention):
    """Attention over H and W in each frame, then over T at each place, instead of over all positions.

    Ho et al. 2022, section 3. The one over T is the layer ``time``; the other has the names of Attention.
    h (B, C, T, H, W) keeps its shape.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__(channels, num_heads)
        self.time = Attention(channels, num_heads)

    def forward(self, h: Tensor) -> Tensor:
        return space_then_time(h, super().forward, self.time)


class Stage(nn.Module):
    """A residual block and the layers after it; recomputed in the backward pass when checkpointing."""

    def __init__(
        self, block: ResidualBlock, after: nn.Module, cross: CrossAttention | None, checkpointing: bool
    ) -> None:
        super().__init__()
        self.block = block
        self.after = after
        self.cross = cross
        self.checkpointing = checkpointing

    def _run(self, h: Tensor, embedding: Tensor, tokens: Tokens | None) -> Tensor:
        result: Tensor = self.after(self.block(h, embedding))
        return result if self.cross is None or tokens is None else self.cross(result, tokens)

    def forward(self, h: Tensor, embedding: Tensor, tokens: Tokens | None) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(self._run, h, embedding, tokens, use_reentrant=False))
        return self._run(h, embedding, tokens)


class FourierChannels(nn.Module):
    """x and, for each n in ``exponents``, sin(2^n pi x) and cos(2^n pi x), one after another as channels.

    They make differences of x visible that are small beside x itself, in bf16 too (Kingma et al. 2021, appendix C,
    n = 7 and 8 for bytes in [-1, 1]). x (B, C, ...) -> (B, C + 2 C len(exponents), ...), in the precision of x.
    """

    def __init__(self, exponents: tuple[int, ...]) -> None:
        super().__init__()
        self.exponents = exponents

    def forward(self, x: Tensor) -> Tensor:
        angles = [x * (2.0**n * math.pi) for n in self.exponents]
        return torch.cat([x, *(wave for angle in angles for wave in (angle.sin(), angle.cos()))], dim=1)


@register("network", "unet")
class UNet(nn.Module):
    """The U-Net of DDPM (Ho et al. 2020, appendix B), with improved DDPM's options (Nichol & Dhariwal 2021).

    Level i has channels * channel_mult[i] channels, num_res_blocks residual blocks on the way down and one more on the
    way up. Each level halves the sides, rounding up: 28, 14, 7, 4. The levels whose longest halved side is in
    attention_resolutions have attention, as the middle always does. network(x, label, cond): x (B, C, L),
    (B, C, H, W) or (B, C, T, H, W), label (B,), cond (B,) classes or None -> (B, outputs C, ...), which is 0 before
    training. class_conditional "auto" is true for data with classes. fourier_features=[7,8] adds sin(2^n pi x) and
    cos(2^n pi x) to the input for these n, which a likelihood needs (Kingma et al. 2021, appendix C).

    Convolutions are over all sides, T included. Levels keep T; with halve_time they halve it too, which suits volumes.
    Attention is over all positions; with factorized_attention over H and W in each frame, then over T at each place
    (Ho et al. 2022, section 3). These two keys are for (C, T, H, W) alone.

    cond may be a Condition. Its vectors are added to the time embedding, and so are the means of its sequences, whose
    tokens the levels with attention attend to (Rombach et al. 2022, section 3.3). Its images are channels beside x.

    Raises ConfigError for data of other shapes, more levels than the data have sizes, an attention resolution that
    no level has, heads that do not divide the channels, class_conditional on data without classes, and halve_time or
    factorized_attention on data without T.
    """

    def __init__(
        self,
        shape: Runtime[tuple[int, ...]],
        num_classes: Runtime[int] = 0,
        outputs: Runtime[int] = 1,
        vectors: Runtime[Mapping[str, int] | None] = None,
        sequences: Runtime[Mapping[str, tuple[int, int]] | None] = None,
        images: Runtime[Mapping[str, int] | None] = None,
        channels: Annotated[int, Range(4, 1_000_000)] = 32,
        channel_mult: tuple[Size, ...] = (1, 2, 2),
        num_res_blocks: Size = 1,
        attention_resolutions: tuple[PositiveInt, ...] = (),
        num_heads: Size = 1,
        dropout: OpenFraction = 0.0,
        scale_shift_norm: bool = False,
        class_conditional: bool | Literal["auto"] = "auto",
        checkpointing: bool = False,
        fourier_features: tuple[Annotated[int, Range(0, 16)], ...] = (),
        halve_time: bool = False,
        factorized_attention: bool = False,
    ) -> None:
        super().__init__()
        check_dims("unet", shape, dims=(1, 2, 3))
        _check_time(shape, halve_time=halve_time, factorized_attention=factorized_attention)
        dims = len(shape) - 1
        stride = (2, 2, 2) if halve_time else FACTORS[dims]
        sizes = _sizes(shape, stride, channel_mult, attention_resolutions)
        attention_layer = SpaceTimeAttention if factorized_attention else Attention
        widths = [channels * mult for mult in channel_mult]
        features = 4 * channels
        attended = [size in attention_resolutions for size in sizes]
        _check_heads(num_heads, [width for width, has in zip(widths, attended, strict=True) if has] + widths[-1:])

        def stage(width_in: int, width: int, attention: bool) -> Stage:
            block = ResidualBlock(width_in, width, features, dropout, scale_shift_norm, dims)
            cross = CrossAttention(width, num_heads, features) if attention and sequences else None
            return Stage(block, attention_layer(width, num_heads) if attention else nn.Identity(), cross, checkpointing)

        self.time = TimeEmbedding(channels, features)
        self.class_conditional = num_classes > 0 if class_conditional == "auto" else class_conditional
        self.classes = class_embedding(self.class_conditional, num_classes, features)
        self.num_classes = num_classes
        self.told = Conditions(features, vectors, sequences, images)
        self.waves = FourierChannels(fourier_features) if fourier_features else nn.Identity()
        self.enter = convolution(dims, shape[0] * (1 + 2 * len(fourier_features)) + self.told.image_channels, channels)
        width = channels
        skips = [channels]
        self.down = nn.ModuleList()
        self.downsample = nn.ModuleList()
        for i, level_width in enumerate(widths):
            if i > 0:
                self.downsample.append(convolution(dims, width, width, stride=stride))
                skips.append(width)
            level = nn.ModuleList()
            for _ in range(num_res_blocks):
                level.append(stage(width, level_width, attended[i]))
                width = level_width
                skips.append(width)
            self.down.append(level)
        self.middle = nn.ModuleList([stage(width, width, True), stage(width, width, False)])
        self.up = nn.ModuleList()
        self.upsample = nn.ModuleList()
        for i, level_width in reversed(list(enumerate(widths))):
            level = nn.ModuleList()
            for _ in range(num_res_blocks + 1):
                level.append(stage(width + skips.pop(), level_width, attended[i]))
                width = level_width
            self.up.append(level)
            if i > 0:
                self.upsample.append(convolution(dims, width, width))
        self.norm = group_norm(width)
        self.leave = zeroed(convolution(dims, width, outputs * shape[0]))

    def forward(self, x: Tensor, label: Tensor, cond: Tensor | Condition | None = None) -> Tensor:
        embedding = self.classes(self.time(label), class_labels(cond, self.num_classes))
        embedding, told, tokens = self.told(embedding, cond, self.waves(x))
        embedding = nn.functional.silu(embedding)
        h = self.enter(told)
        skips = [h]
        for i, level in enumerate(self.down):
            if i > 0:
                h = self.downsample[i - 1](h)
                skips.append(h)
            for stage in cast(nn.ModuleList, level):
                h = stage(h, embedding, tokens)
                skips.append(h)
        for stage in self.middle:
            h = stage(h, embedding, tokens)
        for i, level in enumerate(self.up):
            if i > 0:
                h = self.upsample[i - 1](nn.functional.interpolate(h, size=skips[-1].shape[2:], mode="nearest"))
            for stage in cast(nn.ModuleList, level):
                h = stage(torch.cat([h, skips.pop()], dim=1), embedding, tokens)
        # Contiguous, so that noise drawn like the output does not depend on the memory format of the weights.
        result: Tensor = self.leave(nn.functional.silu(self.norm(h))).contiguous()
        return result


def _check_time(shape: tuple[int, ...], **keys: bool) -> None:
    for key in [key for key, value in keys.items() if value and len(shape) != 4]:
        raise ConfigError(
            f"network.{key}=true needs videos (C, T, H, W), but an example of data=... has the shape {tuple(shape)}; "
            f"set network.{key}=false or choose other data"
        )


def _sizes(
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    channel_mult: tuple[int, ...],
    attention_resolutions: tuple[int, ...],
) -> list[int]:
    """The longest of the halved sides at every level."""
    if not channel_mult:
        raise ConfigError("network.channel_mult=(): must have at least one factor, one for each level")
    halved = [side for side, factor in zip(shape[1:], stride, strict=True) if factor > 1]
    sizes = [max(halved)]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    example = f"an example of {'x'.join(map(str, halved))}"
    if len(channel_mult) > len(sizes):
        raise ConfigError(
            f"network.channel_mult={tuple(channel_mult)}: {len(channel_mult)} levels, but {example} has at most "
            f"{len(sizes)} (sizes {', '.join(map(str, sizes))}); give network.channel_mult fewer factors"
        )
    sizes = sizes[: len(channel_mult)]
    absent = [str(size) for size in attention_resolutions if size not in sizes]
    if absent:
        raise ConfigError(
            f"network.attention_resolutions={tuple(attention_resolutions)}: no level has size {', '.join(absent)}; "
            f"{example} and {len(channel_mult)} levels give sizes {', '.join(map(str, sizes))}"
        )
    return sizes


def _check_heads(num_heads: int, widths: list[int]) -> None:
    odd = [str(width) for width in widths if width % num_heads]
    if odd:
        raise ConfigError(
            f"network.num_heads={num_heads}: does not divide the {odd[0]} channels of an attention layer; "
            "change network.num_heads or network.channels"
        )
