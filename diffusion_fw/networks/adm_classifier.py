"""The classifier of noisy examples that guides ADM."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diffusion_fw.networks.adm_unet import EPS, ChannelMult, Channels
from diffusion_fw.networks.blocks.ddpm_layers import attend, convolution, group_norm
from diffusion_fw.networks.blocks.ddpm_levels import Encoder, Layers, heads, level_sizes, level_widths
from diffusion_fw.networks.blocks.embeddings import Sinusoids, TimeEmbedding
from diffusion_fw.registry import ConfigError, OpenFraction, PositiveInt, Runtime, Size, register


class AttentionPool(nn.Module):
    """W_o of the attention of the mean of all positions to itself and to them, each with a learned vector added.

    Radford et al. 2021 (CLIP), section 2.4. h (B, channels, ...) with ``positions`` positions -> (B, outputs).
    """

    def __init__(self, channels: int, positions: int, num_heads: int, outputs: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.positions = nn.Parameter(torch.randn(positions + 1, channels) / math.sqrt(channels))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, outputs)

    def forward(self, h: Tensor) -> Tensor:
        tokens = h.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1) + self.positions
        result: Tensor = self.out(attend(self.qkv(tokens), self.num_heads)[:, 0])
        return result


@register("network", "adm_classifier")
class ADMClassifier(nn.Module):
    """A classifier of noisy examples: ADM's U-Net without its way up, and attention pooling (Dhariwal & Nichol 2021).

    Section 4 and appendix I. The parameters are those of network=adm_unet. network(x, label): c_in x_t as x (B, C, L),
    (B, C, H, W) or (B, C, T, H, W), and label (B,) -> logits (B, num_classes). Train it with objective=classifier, and
    guide a model by it with guidance=classifier. The defaults are the paper's for ImageNet at 64x64.

    Raises ConfigError for data without classes and of other shapes, sides that the levels do not divide, an attention
    resolution that no level has, and heads that do not divide the channels.
    """

    class_conditional = False
    gives_logits = True

    def __init__(
        self,
        shape: Runtime[tuple[int, ...]],
        num_classes: Runtime[int] = 0,
        channels: Channels = 128,
        channel_mult: ChannelMult = (1, 2, 3, 4),
        num_res_blocks: Size = 4,
        attention_resolutions: tuple[PositiveInt, ...] = (32, 16, 8),
        num_head_channels: Size = 64,
        dropout: OpenFraction = 0.0,
        scale_shift_norm: bool = True,
        resblock_updown: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if num_classes == 0:
            raise ConfigError(
                "network=adm_classifier needs classes to tell apart, but this data has none; choose data=... with "
                "classes or another network"
            )
        sizes = level_sizes("adm_classifier", shape, channel_mult, attention_resolutions, dims=(1, 2, 3))
        widths, dims, features = level_widths(channels, channel_mult), len(shape) - 1, 4 * channels

        layers = Layers(
            dims=dims,
            features=features,
            eps=EPS,
            attended=[size in attention_resolutions for size in sizes],
            num_heads=lambda width: heads(width, 1, num_head_channels),
            heads_first=True,
            dropout=dropout,
            scale_shift_norm=scale_shift_norm,
            resblock_updown=resblock_updown,
            checkpointing=checkpointing,
        )
        self.time = TimeEmbedding(channels, features, Sinusoids(channels, endpoint=False, cosine_first=True))
        self.enter = convolution(dims, shape[0], widths[0])
        self.down = Encoder(widths[0], widths, num_res_blocks, layers.stage, layers.downsample)
        width = widths[-1]
        self.middle = layers.middle(width)
        self.norm = group_norm(width, EPS)
        halvings = len(widths) - 1
        sides = shape[1:-2] + tuple(side >> halvings for side in shape[1:][-2:])
        self.pool = AttentionPool(width, math.prod(sides), heads(width, 1, num_head_channels), num_classes)

    def forward(self, x: Tensor, label: Tensor, cond: Tensor | None = None) -> Tensor:
        embedding = nn.functional.silu(self.time(label))
        h = self.down(self.enter(x), embedding)[-1]
        for stage in self.middle:
            h = stage(h, embedding)
        result: Tensor = self.pool(nn.functional.silu(self.norm(h)))
        return result
