"""The U-Net of DDPM as its authors' code has it."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from diffusion_fw.networks.blocks.ddpm_layers import group_norm
from diffusion_fw.networks.blocks.ddpm_levels import Decoder, Encoder, Layers, level_sizes
from diffusion_fw.networks.blocks.embeddings import TimeEmbedding
from diffusion_fw.registry import OpenFraction, PositiveInt, Range, Runtime, Size, register

EPS = 1e-6
"""Of the group norms."""
SMALL_GAIN = 1e-5
"""The root of the scale 1e-10 to which the authors' initializer raises a scale of 0."""
LAST = ("conv2", "out", "leave")
"""The layers that it has this scale for: the last of residual blocks, of attention and of the network."""


class PaddedDownsample(nn.Module):
    """A convolution of stride 2 on h with a row and a column of zeros added at its end, whatever the embedding.

    TensorFlow's "same" padding for even sides.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        result: Tensor = self.conv(nn.functional.pad(h, (0, 1, 0, 1)))
        return result


@register("network", "ddpm_unet")
class DDPMUNet(nn.Module):
    """The U-Net of DDPM, with the layers and the initialization of its authors' code (Ho et al. 2020, appendix B).

    Level i has channels * channel_mult[i] channels, num_res_blocks residual blocks on the way down and one more on the
    way up. The levels whose longer side is in attention_resolutions have attention of one head, as the middle always
    does. Weights start uniform with variance 2 / (inputs + outputs), the last convolutions of residual blocks, of
    attention and of the network 1e-5 times smaller. network=unet has more options.

    network(x, label): x (B, C, H, W), label (B,) -> (B, outputs C, H, W). It takes no classes. The defaults are the
    paper's for CIFAR-10.

    Raises ConfigError for data other than images, sides that the levels do not divide, and an attention resolution that
    no level has.
    """

    class_conditional = False

    def __init__(
        self,
        shape: Runtime[tuple[int, ...]],
        outputs: Runtime[int] = 1,
        channels: Annotated[int, Range(4, 1_000_000)] = 128,
        channel_mult: tuple[Size, ...] = (1, 2, 2, 2),
        num_res_blocks: Size = 2,
        attention_resolutions: tuple[PositiveInt, ...] = (16,),
        dropout: OpenFraction = 0.1,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        sizes = level_sizes("ddpm_unet", shape, channel_mult, attention_resolutions)
        widths, features = [channels * mult for mult in channel_mult], 4 * channels

        layers = Layers(
            dims=2,
            features=features,
            eps=EPS,
            attended=[size in attention_resolutions for size in sizes],
            num_heads=lambda width: 1,
            dropout=dropout,
            checkpointing=checkpointing,
        )
        self.time = TimeEmbedding(channels, features)
        self.enter = nn.Conv2d(shape[0], channels, 3, padding=1)
        self.down = Encoder(channels, widths, num_res_blocks, layers.stage, PaddedDownsample)
        self.middle = layers.middle(widths[-1])
        self.up = Decoder(widths[-1], widths, self.down.widths, num_res_blocks, layers.stage, layers.upsample)
        self.norm = group_norm(widths[0], EPS)
        self.leave = nn.Conv2d(widths[0], outputs * shape[0], 3, padding=1)
        self._initialize()

    def _initialize(self) -> None:
        for name, parameter in self.named_parameters():
            layer = name.split(".")[-2]
            if parameter.dim() > 1:
                # Query, key and value are layers of their own there.
                for weight in parameter.chunk(3 if layer == "qkv" else 1):
                    nn.init.xavier_uniform_(weight, SMALL_GAIN if layer in LAST else 1.0)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, label: Tensor, cond: Tensor | None = None) -> Tensor:
        embedding = nn.functional.silu(self.time(label))
        features = self.down(self.enter(x), embedding)
        h = features[-1]
        for stage in self.middle:
            h = stage(h, embedding)
        h = self.up(h, features, embedding)
        # Contiguous, so that noise drawn like the output does not depend on the memory format of the weights.
        result: Tensor = self.leave(nn.functional.silu(self.norm(h))).contiguous()
        return result
