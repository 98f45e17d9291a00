"""The U-Net of improved DDPM and of ADM."""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor, nn

from diffusion_fw.networks.blocks.ddpm_layers import Attention, SpaceTimeAttention, convolution, group_norm
from diffusion_fw.networks.blocks.ddpm_levels import Decoder, Encoder, Layers, heads, level_sizes, level_widths
from diffusion_fw.networks.blocks.embeddings import ClassVectors, Sinusoids, TimeEmbedding, class_embedding
from diffusion_fw.networks.blocks.zeroed import zeroed
from diffusion_fw.registry import ConfigError, OpenFraction, PositiveInt, Range, Runtime, Size, register

EPS = 1e-5
"""Of the group norms."""

Channels = Annotated[int, Range(2, 1_000_000)]
ChannelMult = tuple[Annotated[float, Range(0, 1_000_000, low_open=True)], ...]


@register("network", "adm_unet")
class ADMUNet(nn.Module):
    """The U-Net of improved DDPM (Nichol & Dhariwal 2021, appendix A) and of ADM (Dhariwal & Nichol 2021, section 3).

    Level i has channels * channel_mult[i] channels, num_res_blocks residual blocks on the way down and one more on the
    way up. The levels whose longer side is in attention_resolutions have attention, as the middle always does, with
    num_heads heads, or with heads of num_head_channels channels where that is given. Between levels the size changes by
    a convolution; with resblock_updown by a residual block; without conv_resample by the mean of neighbours and by
    repetition alone. use_new_attention_order: query, key and value of all heads are in turn, instead of those of one
    head; the function is the same, but weights are arranged for one of the two.

    Attention is over all positions. factorized_attention, for videos: over H and W in each frame, then over T at each
    place (Ho et al. 2022a, section 3). The order of frames is known from the convolutions, which are over T too.

    network(x, label, cond): x (B, C, L), (B, C, H, W) or (B, C, T, H, W), where levels keep T, label (B,), cond (B,)
    classes or None -> (B, outputs C, ...), which is 0 before training. class_conditional "auto" is true for data with
    classes; "no class" adds the zero vector. The defaults are improved DDPM's for CIFAR-10, L_hybrid.

    Raises ConfigError for data of other shapes, sides that the levels do not divide, an attention resolution that no
    level has, heads that do not divide the channels, factorized_attention on data that are not videos,
    resblock_updown without conv_resample, and class_conditional on data without classes.
    """

    def __init__(
        self,
        shape: Runtime[tuple[int, ...]],
        num_classes: Runtime[int] = 0,
        outputs: Runtime[int] = 1,
        channels: Channels = 128,
        channel_mult: ChannelMult = (1, 2, 2, 2),
        num_res_blocks: Size = 3,
        attention_resolutions: tuple[PositiveInt, ...] = (16, 8),
        num_heads: Size = 4,
        num_head_channels: Size | None = None,
        dropout: OpenFraction = 0.3,
        scale_shift_norm: bool = True,
        resblock_updown: bool = False,
        conv_resample: bool = True,
        use_new_attention_order: bool = False,
        factorized_attention: bool = False,
        class_conditional: bool | Literal["auto"] = "auto",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        sizes = level_sizes("adm_unet", shape, channel_mult, attention_resolutions, dims=(1, 2, 3))
        widths, dims, features = level_widths(channels, channel_mult), len(shape) - 1, 4 * channels
        if factorized_attention and dims != 3:
            raise ConfigError(
                "network.factorized_attention=true needs videos (C, T, H, W), but an example of data=... has the shape "
                f"{tuple(shape)}; set network.factorized_attention=false or choose other data"
            )
        if resblock_updown and not conv_resample:
            raise ConfigError(
                "network.resblock_updown=true takes the place of the convolutions between levels, so "
                "network.conv_resample=false has no effect; set one of them otherwise"
            )
        self.sizes = sizes
        self.scale_shift_norm, self.resblock_updown = scale_shift_norm, resblock_updown

        layers = Layers(
            dims=dims,
            features=features,
            eps=EPS,
            attended=[size in attention_resolutions for size in sizes],
            num_heads=lambda width: heads(width, num_heads, num_head_channels),
            attention_layer=SpaceTimeAttention if factorized_attention else Attention,
            heads_first=not use_new_attention_order,
            dropout=dropout,
            scale_shift_norm=scale_shift_norm,
            resblock_updown=resblock_updown,
            conv_resample=conv_resample,
            checkpointing=checkpointing,
        )
        self.time = TimeEmbedding(channels, features, Sinusoids(channels, endpoint=False, cosine_first=True))
        self.class_conditional = num_classes > 0 if class_conditional == "auto" else class_conditional
        self.classes = class_embedding(self.class_conditional, num_classes, features, ClassVectors)
        self.enter = convolution(dims, shape[0], widths[0])
        self.down = Encoder(widths[0], widths, num_res_blocks, layers.stage, layers.downsample)
        self.middle = layers.middle(widths[-1])
        self.up = Decoder(widths[-1], widths, self.down.widths, num_res_blocks, layers.stage, layers.upsample)
        self.norm = group_norm(widths[0], EPS)
        self.leave = zeroed(convolution(dims, widths[0], outputs * shape[0]))

    def forward(self, x: Tensor, label: Tensor, cond: Tensor | None = None) -> Tensor:
        embedding = nn.functional.silu(self.classes(self.time(label), cond))
        features = self.down(self.enter(x), embedding)
        h = features[-1]
        for stage in self.middle:
            h = stage(h, embedding)
        h = self.up(h, features, embedding)
        # Contiguous, so that noise drawn like the output does not depend on the memory format of the weights.
        result: Tensor = self.leave(nn.functional.silu(self.norm(h))).contiguous()
        return result
