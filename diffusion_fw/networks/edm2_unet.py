"""The U-Net of EDM2, whose layers keep the magnitude of activations."""

from __future__ import annotations

import math
from typing import Annotated, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion_fw.networks.blocks import magnitude
from diffusion_fw.networks.blocks.ddpm_levels import level_sizes
from diffusion_fw.networks.blocks.embeddings import class_embedding, in_float32
from diffusion_fw.registry import ConfigError, OpenFraction, PositiveInt, Range, Runtime, Size, register

RESIDUAL_SHARE = 0.3
ATTENTION_SHARE = 0.3
CLASS_SHARE = 0.5
MOST = 256.0
"""The largest activation after a block."""


class EDM2Attention(nn.Module):
    """h mixed with the attention over its positions, of queries, keys and values of unit length; h (B, C, H, W)."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = magnitude.Conv(channels, 3 * channels, 1)
        self.out = magnitude.Conv(channels, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        heads = magnitude.normalize(self.qkv(h).flatten(2).unflatten(1, (self.num_heads, -1, 3)), dims=(2,))
        query, key, value = heads.permute(3, 0, 1, 4, 2)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return magnitude.mix(h, self.out(mixed.mT.flatten(1, 2).unflatten(2, h.shape[2:])), ATTENTION_SHARE)


class EDM2Block(nn.Module):
    """h mixed with conv(silu(conv(silu(h)) (1 + gain W e))), then attention; the gain starts at 0.

    Karras et al. 2024b, figure 21. On the way down (``encoder``) the skip comes first, and each position is normalized
    over its channels. ``resample`` is applied first. h (B, channels, ...), e (B, features) -> (B, out_channels, ...).
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        features: int,
        *,
        encoder: bool,
        resample: nn.Module | None = None,
        num_heads: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.resample = resample or nn.Identity()
        self.skip = nn.Identity() if channels == out_channels else magnitude.Conv(channels, out_channels, 1)
        self.conv1 = magnitude.Conv(out_channels if encoder else channels, out_channels, 3)
        self.embedding = magnitude.Linear(features, out_channels)
        self.gain = nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = magnitude.Conv(out_channels, out_channels, 3)
        self.attention = EDM2Attention(out_channels, num_heads) if num_heads else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        h = self.resample(h)
        if self.encoder:
            h = magnitude.normalize(self.skip(h), dims=(1,))
        residual = self.conv1(magnitude.silu(h))
        modulation = 1 + self.embedding(embedding, self.gain)[:, :, None, None]
        residual = self.conv2(self.dropout(magnitude.silu(residual * modulation.to(residual.dtype))))
        if not self.encoder:
            h = self.skip(h)
        result: Tensor = self.attention(magnitude.mix(h, residual, RESIDUAL_SHARE))
        return result.clamp(-MOST, MOST)


@register("network", "edm2_unet")
class EDM2UNet(nn.Module):
    """The U-Net of EDM2 (Karras et al. 2024b, configuration G): no biases, no learned norms, weights of unit length.

    Level i has channels * channel_mult[i] channels, num_res_blocks blocks on the way down and one more on the way up.
    The levels whose longer side is in attention_resolutions have attention, in heads of num_head_channels channels, as
    has the first block at the bottom. The published sizes are channels = 64 (XXS), 128 (XS), 192 (S), 256 (M), 320 (L),
    384 (XL) and 448 (XXL).

    In training each forward pass first normalizes all weights in place ("forced weight normalization"). The learned
    uncertainty of the paper's loss is in objective=uncertainty.

    network(x, label, cond): x (B, C, H, W), label (B,), such as log(sigma) / 4 of parameterization=edm, cond (B,)
    classes or None -> (B, outputs C, H, W), which is 0 before training. "No class" is the zero vector.
    class_conditional "auto" is true for data with classes.

    Raises ConfigError for data other than images, sides that the levels do not halve, an attention resolution that no
    level has, heads that do not divide the channels, and class_conditional on data without classes. A run whose
    strategy shards the weights is refused.
    """

    writes_weights = True

    def __init__(
        self,
        shape: Runtime[tuple[int, ...]],
        num_classes: Runtime[int] = 0,
        outputs: Runtime[int] = 1,
        channels: Annotated[int, Range(4, 1_000_000)] = 64,
        channel_mult: tuple[Size, ...] = (1, 2, 3, 4),
        num_res_blocks: Size = 3,
        attention_resolutions: tuple[PositiveInt, ...] = (16, 8),
        num_head_channels: Size = 64,
        dropout: OpenFraction = 0.0,
        class_conditional: bool | Literal["auto"] = "auto",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.sizes = sizes = level_sizes("edm2_unet", shape, channel_mult, attention_resolutions)
        widths = [channels * mult for mult in channel_mult]
        features = max(widths)
        attended = [size in attention_resolutions for size in sizes]
        self.checkpointing = checkpointing
        # Its import takes a second, which whoever loads another network need not wait.
        from diffusion_fw.networks.blocks.forced_weights import force_weights

        self.force_weights = force_weights
        self.class_conditional = num_classes > 0 if class_conditional == "auto" else class_conditional
        self.num_classes = num_classes

        def block(width_in: int, width: int, *, encoder: bool, attention: bool = False) -> EDM2Block:
            num_heads = _heads(width, num_head_channels) if attention else 0
            return EDM2Block(width_in, width, features, encoder=encoder, num_heads=num_heads, dropout=dropout)

        def between(width: int, *, encoder: bool) -> EDM2Block:
            resample = nn.AvgPool2d(2) if encoder else nn.Upsample(scale_factor=2, mode="nearest")
            return EDM2Block(width, width, features, encoder=encoder, resample=resample, dropout=dropout)

        self.waves = magnitude.Fourier(widths[0])
        self.time = magnitude.Linear(widths[0], features)
        self.classes = class_embedding(self.class_conditional, num_classes, features, magnitude.Linear)
        self.enter = magnitude.Conv(shape[0] + 1, widths[0], 3)
        width = widths[0]
        skips = [width]
        self.down = nn.ModuleList()
        for i, level_width in enumerate(widths):
            if i > 0:
                self.down.append(between(width, encoder=True))
                skips.append(width)
            for _ in range(num_res_blocks):
                self.down.append(block(width, level_width, encoder=True, attention=attended[i]))
                width = level_width
                skips.append(width)
        self.middle = nn.ModuleList(
            [block(width, width, encoder=False, attention=True), block(width, width, encoder=False)]
        )
        self.up = nn.ModuleList()
        self.upsample = nn.ModuleList()
        for i, level_width in reversed(list(enumerate(widths))):
            level = nn.ModuleList()
            for _ in range(num_res_blocks + 1):
                level.append(block(width + skips.pop(), level_width, encoder=False, attention=attended[i]))
                width = level_width
            self.up.append(level)
            if i > 0:
                self.upsample.append(between(width, encoder=False))
        self.leave = magnitude.Conv(width, outputs * shape[0], 3)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, label: Tensor, cond: Tensor | None = None) -> Tensor:
        # Not in the layers, so that a block that is computed again finds the weights that it had.
        if self.training:
            self.force_weights(self)
        embedding = self._embedding(label, cond)
        h = self.enter(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))
        skips = [h]
        for block in self.down:
            h = self._run(block, h, embedding)
            skips.append(h)
        for block in self.middle:
            h = self._run(block, h, embedding)
        for i, level in enumerate(self.up):
            if i > 0:
                h = self._run(self.upsample[i - 1], h, embedding)
            for block in cast(nn.ModuleList, level):
                h = self._run(block, magnitude.concatenate(h, skips.pop()), embedding)
        # Contiguous, so that noise drawn like the output does not depend on the memory format of the weights.
        return cast(Tensor, self.leave(h, self.gain)).contiguous()

    def _embedding(self, label: Tensor, cond: Tensor | None) -> Tensor:
        """silu of the time label's embedding, mixed with that of the class."""
        with in_float32(label.device.type):
            embedding: Tensor = self.time(self.waves(label))
            if self.class_conditional:
                known = torch.arange(self.num_classes, device=label.device)
                none = torch.full_like(label, self.num_classes, dtype=torch.int64)
                one_hot = (none if cond is None else cond)[:, None] == known
                classes = self.classes(one_hot.to(embedding.dtype) * math.sqrt(self.num_classes))
                embedding = magnitude.mix(embedding, classes, CLASS_SHARE)
            return magnitude.silu(embedding)

    def _run(self, block: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(block, h, embedding, use_reentrant=False))
        return cast(Tensor, block(h, embedding))


def _heads(width: int, num_head_channels: int) -> int:
    """The number of heads; one for a layer that is narrower than a head."""
    if width > num_head_channels and width % num_head_channels:
        raise ConfigError(
            f"network.num_head_channels={num_head_channels}: does not divide the {width} channels of an attention "
            "layer; change network.num_head_channels or network.channels"
        )
    return max(1, width // num_head_channels)
