"""NCSN++: the U-Net of score-based models, with filtered resampling and progressive inputs and outputs."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion_fw.networks.blocks.ddpm_levels import level_sizes
from diffusion_fw.networks.blocks.embeddings import FourierFeatures, Sinusoids, class_embedding, in_float32
from diffusion_fw.networks.blocks.norms import group_norm
from diffusion_fw.networks.blocks.resampling import BOX, FIR, Downsample, DownsampleConv, Upsample, UpsampleConv
from diffusion_fw.registry import OpenFraction, Positive, PositiveInt, Range, Runtime, Size, register

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)

TINY = 1e-5
"""The factor of the weights of a layer that almost starts as zero."""


def xavier(module: Layer, gain: float = 1.0) -> Layer:
    """The layer with uniform weights of variance 2 gain^2 / (fan in + fan out) and zero biases."""
    nn.init.xavier_uniform_(module.weight, gain)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


class OneHotMap(nn.Module):
    """Adds W sqrt(K) onehot(cond) + b to the waves of the label, for K classes; W 0 + b for "no class".

    Karras et al. 2022, appendix F.2. embedding (B, features), cond int64 (B,) in 0..num_classes, or None for "no class"
    throughout.
    """

    classes: Tensor

    def __init__(self, num_classes: int, features: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("classes", torch.arange(num_classes), persistent=False)
        self.linear = xavier(nn.Linear(num_classes, features))

    def forward(self, embedding: Tensor, cond: Tensor | None) -> Tensor:
        known = torch.zeros_like(self.classes)[None] if cond is None else cond[:, None] == self.classes
        one_hot = known.to(embedding.dtype)
        return embedding + cast(Tensor, self.linear(math.sqrt(self.num_classes) * one_hot))


class Embedding(nn.Module):
    """silu(W_2 silu(W_1 (waves(label) + class + augmentation))): (B,) -> (B, features), in float32.

    ``augment_dim`` numbers describe how a training example was augmented (Karras et al. 2022, appendix F.2). They are 0
    for the examples as they are, as in sampling.
    """

    def __init__(self, waves: nn.Module, channels: int, features: int, classes: nn.Module, augment_dim: int) -> None:
        super().__init__()
        self.waves = waves
        self.classes = classes
        self.augmentation = xavier(nn.Linear(augment_dim, channels, bias=False)) if augment_dim else None
        self.first = xavier(nn.Linear(channels, features))
        self.second = xavier(nn.Linear(features, features))

    def forward(self, label: Tensor, cond: Tensor | None, augmentation: Tensor | None = None) -> Tensor:
        with in_float32(label.device.type):
            h = self.classes(self.waves(label), cond)
            if self.augmentation is not None:
                none = h.new_zeros(1, self.augmentation.in_features)
                h = h + self.augmentation(none if augmentation is None else augmentation)
            return nn.functional.silu(self.second(nn.functional.silu(self.first(h))))


class ResidualBlock(nn.Module):
    """(skip(h) + conv(silu(norm(conv(resample(silu(norm(h)))) + W e)))) / sqrt(2), BigGAN's block.

    Brock et al. 2019; Song et al. 2021, appendix H. ``resample`` acts on the skip too. With ``attention`` the result
    h' becomes (h' + W_o softmax(Q K^T / sqrt(d)) V) / sqrt(2), of one head over the positions of norm(h').
    h (B, channels, H, W), e (B, features) -> (B, out_channels, H', W').
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        features: int,
        dropout: float,
        resample: nn.Module | None = None,
        attention: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = group_norm(channels)
        self.resample = resample or nn.Identity()
        self.conv1 = xavier(nn.Conv2d(channels, out_channels, 3, padding=1))
        self.embedding = xavier(nn.Linear(features, out_channels))
        self.norm2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = xavier(nn.Conv2d(out_channels, out_channels, 3, padding=1), TINY)
        same = channels == out_channels and resample is None
        self.skip = nn.Identity() if same else xavier(nn.Conv2d(channels, out_channels, 1))
        self.attention = Attention(out_channels) if attention else nn.Identity()
        self.checkpointing = checkpointing

    def _run(self, h: Tensor, embedding: Tensor) -> Tensor:
        residual = self.conv1(self.resample(nn.functional.silu(self.norm1(h))))
        residual = self.norm2(residual + self.embedding(embedding)[:, :, None, None])
        residual = self.conv2(self.dropout(nn.functional.silu(residual)))
        result: Tensor = self.attention((self.skip(self.resample(h)) + residual) * math.sqrt(0.5))
        return result

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(self._run, h, embedding, use_reentrant=False))
        return self._run(h, embedding)


class Attention(nn.Module):
    """(h + W_o softmax(Q K^T / sqrt(C)) V) / sqrt(2) over the positions of norm(h); (B, C, H, W) keeps its shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = xavier(nn.Linear(channels, 3 * channels), math.sqrt(0.2))
        self.out = xavier(nn.Linear(channels, channels), TINY)

    def forward(self, h: Tensor) -> Tensor:
        tokens = self.norm(h).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(tokens).chunk(3, dim=2)
        mixed = self.out(nn.functional.scaled_dot_product_attention(query, key, value))
        result: Tensor = (h + mixed.transpose(1, 2).unflatten(2, h.shape[2:])) * math.sqrt(0.5)
        return result


class Output(nn.Sequential):
    """conv(silu(norm(h))): (B, channels, H, W) -> (B, out_channels, H, W)."""

    def __init__(self, channels: int, out_channels: int, gain: float = TINY) -> None:
        conv = xavier(nn.Conv2d(channels, out_channels, 3, padding=1), gain)
        super().__init__(group_norm(channels), nn.SiLU(), conv)


class NoPyramid(nn.Module):
    """(pyramid, h) as they are."""

    def forward(self, pyramid: Tensor | None, h: Tensor) -> tuple[Tensor | None, Tensor]:
        return pyramid, h


class InputSkip(nn.Module):
    """(down(pyramid), h + W down(pyramid)): the image, resampled to each level, is added to its features."""

    def __init__(self, pyramid_channels: int, channels: int, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.down = Downsample(taps)
        self.conv = xavier(nn.Conv2d(pyramid_channels, channels, 1))

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        pyramid = self.down(pyramid)
        return pyramid, h + self.conv(pyramid)


class InputResidual(nn.Module):
    """h' = (down(pyramid) + h) / sqrt(2), which is also the next pyramid; the first pyramid is the image."""

    def __init__(self, pyramid_channels: int, channels: int, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.down = DownsampleConv(pyramid_channels, channels, taps)
        xavier(self.down.conv)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = (self.down(pyramid) + h) * math.sqrt(0.5)
        return h, h


class OutputSkip(nn.Module):
    """(up(pyramid) + output(h), h): the output is the sum over the levels, resampled; no pyramid stands for 0."""

    def __init__(self, channels: int, out_channels: int, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.up = Upsample(taps)
        self.output = Output(channels, out_channels)

    def forward(self, pyramid: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
        own = self.output(h)
        return own if pyramid is None else self.up(pyramid) + own, h


class OutputStart(nn.Module):
    """(output(h), h) at the smallest level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.output = Output(channels, channels, gain=1.0)

    def forward(self, pyramid: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.output(h), h


class OutputResidual(nn.Module):
    """h' = (up(pyramid) + h) / sqrt(2), which is also the next pyramid."""

    def __init__(self, pyramid_channels: int, channels: int, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.up = UpsampleConv(pyramid_channels, channels, taps)
        xavier(self.up.conv)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = (self.up(pyramid) + h) * math.sqrt(0.5)
        return h, h


@register("network", "ncsnpp")
class NCSNpp(nn.Module):
    """NCSN++, the U-Net of Song et al. 2021, appendix H; also in the form of Karras et al. 2022, appendix F.2.

    Level i has channels * channel_mult[i] channels, num_res_blocks BigGAN blocks on the way down and one more on the
    way up. A further block halves or doubles height and width, with the filter (1, 3, 3, 1), or the mean of 2 x 2
    pixels without ``fir``. The sum of a block and its skip is divided by sqrt(2). The levels whose longer side is in
    attention_resolutions have attention, after each block on the way down and after the last on the way up, as has the
    middle.

    The label, log sigma in the paper, is embedded by random Fourier features or by DDPM's sinusoids. The image enters
    each level (``progressive_input``), and each level may speak to the output (``progressive_output``): input_skip and
    output_skip for 256 pixels and more in the paper. The paper's division of the output by sigma is
    parameterization=score scale_by_sigma=true. ``augment_dim`` adds the weights for the labels of an
    augmentation, such as EDM's 9, which are 0 in sampling.

    network(x, label, cond): x (B, C, H, W), label (B,), cond (B,) classes or None -> (B, outputs C, H, W), which is
    almost 0 before training. class_conditional "auto" is true for data with classes.

    Raises ConfigError for data other than images, a size that the levels do not halve exactly, an attention resolution
    that no level has, and class_conditional on data without classes.
    """

    registered_name: ClassVar[str] = "ncsnpp"

    def __init__(
        self,
        shape: Runtime[tuple[int, ...]],
        num_classes: Runtime[int] = 0,
        outputs: Runtime[int] = 1,
        channels: Annotated[int, Range(4, 1_000_000)] = 128,
        channel_mult: tuple[Size, ...] = (1, 2, 2, 2),
        num_res_blocks: Size = 4,
        attention_resolutions: tuple[PositiveInt, ...] = (16,),
        dropout: OpenFraction = 0.1,
        embedding: Literal["fourier", "positional"] = "fourier",
        fourier_scale: Positive = 16.0,
        fir: bool = True,
        progressive_input: Literal["none", "input_skip", "residual"] = "residual",
        progressive_output: Literal["none", "output_skip", "residual"] = "none",
        augment_dim: Annotated[int, Range(0, 1_000_000)] = 0,
        class_conditional: bool | Literal["auto"] = "auto",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        levels = len(channel_mult)
        self.sizes = level_sizes(self.registered_name, shape, channel_mult, attention_resolutions)
        attended = [size in attention_resolutions for size in self.sizes]
        widths = [channels * mult for mult in channel_mult]
        features = 4 * channels
        taps = FIR if fir else BOX

        def block(
            width_in: int, width: int, resample: nn.Module | None = None, attention: bool = False
        ) -> ResidualBlock:
            return ResidualBlock(width_in, width, features, dropout, resample, attention, checkpointing)

        waves = FourierFeatures(channels, fourier_scale) if embedding == "fourier" else Sinusoids(channels)
        count = 2 * channels if embedding == "fourier" else channels // 2 * 2
        self.class_conditional = num_classes > 0 if class_conditional == "auto" else class_conditional
        classes = class_embedding(self.class_conditional, num_classes, count, OneHotMap)
        self.augment_dim = augment_dim
        self.embedding = Embedding(waves, count, features, classes, augment_dim)
        self.enter = xavier(nn.Conv2d(shape[0], channels, 3, padding=1))
        width = channels
        skips = [channels]
        pyramid = shape[0]
        self.down = nn.ModuleList()
        self.downsample = nn.ModuleList()
        self.inputs = nn.ModuleList()
        for i, level_width in enumerate(widths):
            if i > 0:
                self.downsample.append(block(width, width, Downsample(taps)))
                self.inputs.append(_input(progressive_input, pyramid, width, taps))
                pyramid = width if progressive_input == "residual" else pyramid
                skips.append(width)
            level = nn.ModuleList()
            for _ in range(num_res_blocks):
                level.append(block(width, level_width, attention=attended[i]))
                width = level_width
                skips.append(width)
            self.down.append(level)
        self.middle = nn.ModuleList([block(width, width, attention=True), block(width, width)])
        self.up = nn.ModuleList()
        self.upsample = nn.ModuleList()
        self.outputs = nn.ModuleList()
        for i, level_width in reversed(list(enumerate(widths))):
            level = nn.ModuleList()
            for j in range(num_res_blocks + 1):
                level.append(block(width + skips.pop(), level_width, attention=attended[i] and j == num_res_blocks))
                width = level_width
            self.up.append(level)
            below = widths[i + 1] if i + 1 < levels else None
            self.outputs.append(_output(progressive_output, below, width, outputs * shape[0], taps))
            if i > 0:
                self.upsample.append(block(width, width, Upsample(taps)))
        self.leave = None if progressive_output == "output_skip" else Output(width, outputs * shape[0])

    def forward(
        self, x: Tensor, label: Tensor, cond: Tensor | None = None, augmentation: Tensor | None = None
    ) -> Tensor:
        embedding = self.embedding(label, cond, augmentation)
        h = self.enter(x)
        skips = [h]
        pyramid: Tensor | None = x
        for i, level in enumerate(self.down):
            if i > 0:
                h = self.downsample[i - 1](h, embedding)
                pyramid, h = self.inputs[i - 1](pyramid, h)
                skips.append(h)
            for block in cast(nn.ModuleList, level):
                h = block(h, embedding)
                skips.append(h)
        for block in self.middle:
            h = block(h, embedding)
        pyramid = None
        for i, level in enumerate(self.up):
            if i > 0:
                h = self.upsample[i - 1](h, embedding)
            for block in cast(nn.ModuleList, level):
                h = block(torch.cat([h, skips.pop()], dim=1), embedding)
            pyramid, h = self.outputs[i](pyramid, h)
        # Contiguous, so that noise drawn like the output does not depend on the memory format of the weights.
        return cast(Tensor, pyramid if self.leave is None else self.leave(h)).contiguous()


def _input(progressive: str, pyramid: int, width: int, taps: tuple[int, ...]) -> nn.Module:
    """How the pyramid of ``pyramid`` channels enters a level."""
    kinds = {"input_skip": InputSkip, "residual": InputResidual}
    return kinds[progressive](pyramid, width, taps) if progressive in kinds else NoPyramid()


def _output(progressive: str, below: int | None, width: int, channels: int, taps: tuple[int, ...]) -> nn.Module:
    """What a level says to the output, after the level of ``below`` channels, or as the smallest one (None)."""
    if progressive == "output_skip":
        return OutputSkip(width, channels, taps)
    if progressive == "residual":
        return OutputStart(width) if below is None else OutputResidual(below, width, taps)
    return NoPyramid()
