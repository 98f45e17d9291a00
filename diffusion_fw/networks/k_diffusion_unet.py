"""The U-Net of k-diffusion (its ``image_v1``), conditioned by adaptive group norms alone."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Annotated, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion_fw.networks.blocks.ddpm_layers import attend
from diffusion_fw.networks.blocks.embeddings import FourierFeatures, class_embedding, in_float32
from diffusion_fw.networks.blocks.resampling import FIR, ReflectedDownsample, ReflectedUpsample
from diffusion_fw.networks.blocks.zeroed import zeroed
from diffusion_fw.registry import ConfigError, NonNegativeInt, OpenFraction, Range, Runtime, Size, register

GROUP = 32
"""The channels of a group in the norms; layers of fewer have one group."""
HEAD = 64
"""The channels of a head in the attention; layers of fewer have one head."""


def _parts(channels: int, width: int, kind: str) -> int:
    """How many groups or heads of about ``width`` channels there are; ConfigError where they do not divide them."""
    count = max(1, channels // width)
    if channels % count:
        raise ConfigError(
            f"network.channels: a layer of {channels} channels has {count} {kind} of about {width}, which do not "
            f"divide it; choose multiples of {HEAD} in network.channels, or at most {GROUP}"
        )
    return count


def orthogonal(module: nn.Linear | nn.Conv2d) -> nn.Module:
    """The layer with orthogonal weights; its biases stay."""
    nn.init.orthogonal_(module.weight)
    return module


class Conditions(nn.Module):
    """Adds W [augmentation, onehot(cond)] to the waves of the label.

    ``augment_dim`` numbers describe how a training example was augmented (Karras et al. 2022, appendix F.2). They are 0
    for the examples as they are, as in sampling. "No class" is the zero vector. embedding (B, features), cond int64
    (B,) in 0..num_classes, or None for "no class" throughout, augmentation (B, augment_dim), or None for none.
    """

    columns: Tensor

    def __init__(self, augment_dim: int, num_classes: int, features: int) -> None:
        super().__init__()
        self.augment_dim = augment_dim
        # The class of each column of W; those of the augmentation belong to none.
        self.register_buffer("columns", torch.arange(-augment_dim, num_classes), persistent=False)
        self.linear = nn.Linear(augment_dim + num_classes, features, bias=False)

    def forward(self, embedding: Tensor, cond: Tensor | None, augmentation: Tensor | None = None) -> Tensor:
        known = torch.zeros_like(self.columns)[None] if cond is None else cond[:, None] == self.columns
        known = known.to(embedding.dtype)
        if augmentation is not None:
            known = known + nn.functional.pad(augmentation, (0, len(self.columns) - self.augment_dim))
        return embedding + cast(Tensor, self.linear(known))


class Mapping(nn.Module):
    """e = gelu(W_2 gelu(W_1 (waves(label) + conditions))): (B,) -> (B, features), in float32."""

    def __init__(self, features: int, conditions: nn.Module) -> None:
        super().__init__()
        self.waves = FourierFeatures(features // 2, 1.0, cosine_first=True)
        self.conditions = conditions
        self.first = orthogonal(nn.Linear(features, features))
        self.second = orthogonal(nn.Linear(features, features))

    def forward(self, label: Tensor, cond: Tensor | None, augmentation: Tensor | None = None) -> Tensor:
        told = () if augmentation is None else (augmentation,)
        with in_float32(label.device.type):
            h = self.conditions(self.waves(label), cond, *told)
            return nn.functional.gelu(self.second(nn.functional.gelu(self.first(h))))


class AdaptiveGroupNorm(nn.Module):
    """norm(h) (1 + scale) + shift with (scale, shift) = W e + b, which start at 0. h (B, C, H, W), e (B, features)."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.groups = _parts(channels, GROUP, "groups")
        self.modulation = zeroed(nn.Linear(features, 2 * channels))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, nn.functional.group_norm(h, self.groups), 1 + scale)


class ResidualBlock(nn.Module):
    """skip(h) + conv(gelu(norm(conv(gelu(norm(h, e))), e))); the last convolution starts at 0.

    Dropout is of whole channels, after each convolution. h (B, channels, H, W), e (B, features) ->
    (B, out_channels, H, W), with ``middle`` channels between the convolutions.
    """

    def __init__(self, channels: int, middle: int, out_channels: int, features: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = AdaptiveGroupNorm(channels, features)
        self.conv1 = nn.Conv2d(channels, middle, 3, padding=1)
        self.norm2 = AdaptiveGroupNorm(middle, features)
        self.conv2 = zeroed(nn.Conv2d(middle, out_channels, 3, padding=1))
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()
        same = channels == out_channels
        self.skip = nn.Identity() if same else orthogonal(nn.Conv2d(channels, out_channels, 1, bias=False))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        residual = self.dropout(self.conv1(nn.functional.gelu(self.norm1(h, embedding))))
        residual = self.dropout(self.conv2(nn.functional.gelu(self.norm2(residual, embedding))))
        result: Tensor = self.skip(h) + residual
        return result


class Attention(nn.Module):
    """h + W_o softmax(Q K^T / sqrt(d)) V over the positions of norm(h, e), in heads of 64; W_o starts at 0.

    Dropout is of the softmax. h (B, C, H, W) keeps its shape; e (B, features).
    """

    def __init__(self, channels: int, features: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = _parts(channels, HEAD, "heads")
        self.norm = AdaptiveGroupNorm(channels, features)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zeroed(nn.Linear(channels, channels))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        tokens = self.norm(h, embedding).flatten(2).transpose(1, 2)
        dropout = self.dropout.p if self.training else 0.0
        mixed = self.out(attend(self.qkv(tokens), self.num_heads, dropout=dropout))
        result: Tensor = h + mixed.transpose(1, 2).unflatten(2, h.shape[2:])
        return result


class Layer(nn.Module):
    """A residual block, and an attention after it if there is one; arguments as of ResidualBlock."""

    def __init__(
        self, channels: int, middle: int, out_channels: int, features: int, dropout: float, attention: bool
    ) -> None:
        super().__init__()
        self.block = ResidualBlock(channels, middle, out_channels, features, dropout)
        self.attention = Attention(out_channels, features, dropout) if attention else None

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        h = self.block(h, embedding)
        return h if self.attention is None else cast(Tensor, self.attention(h, embedding))


@register("network", "k_diffusion_unet")
class KDiffusionUNet(nn.Module):
    """The U-Net of k-diffusion, ``image_v1`` in its configs (Crowson 2022).

    Patches of side ``patch`` are the pixels of level 0. Level i has channels[i] channels and depths[i] residual blocks
    on the way down and as many on the way up, each followed by attention where self_attn_depths[i] is true; its output
    on the way down is joined to what comes up from level i + 1. Height and width are halved and doubled by the filter
    (1, 3, 3, 1). Random Fourier features of the label, log(sigma) / 4 under parameterization=edm, go through a
    perceptron of ``mapping_out`` features, which scales and shifts every norm. The defaults are those of k-diffusion
    for CIFAR-10.

    The first ``skip_stages`` levels are left out, for training that begins with small images: their weights are kept,
    but do not change. ``augment_dim`` adds the weights for the labels of an augmentation, such as the 9 of EDM's and of
    k-diffusion's augment_wrapper, which are 0 in sampling. ``has_variance`` adds a channel whose mean is
    ``log_variance``, k-diffusion's estimate of the log of the loss; no objective trains it here.

    network(x, label, cond): x (B, C, H, W), label (B,), cond (B,) classes or None -> (B, outputs C, H, W), which is 0
    before training. class_conditional "auto" is true for data with classes; "no class" is the zero vector.

    Raises ConfigError for data other than images, a size that patches and levels do not divide, levels of different
    number in channels, depths and self_attn_depths, as many skip_stages as levels, groups or heads that do not divide
    the channels, an odd mapping_out, and class_conditional on data without classes.
    """

    def __init__(
        self,
        shape: Runtime[tuple[int, ...]],
        num_classes: Runtime[int] = 0,
        outputs: Runtime[int] = 1,
        channels: tuple[Size, ...] = (128, 256, 512),
        depths: tuple[Size, ...] = (2, 4, 4),
        self_attn_depths: tuple[bool, ...] = (False, True, True),
        mapping_out: Annotated[int, Range(2, 1_000_000)] = 256,
        patch: Size = 1,
        skip_stages: NonNegativeInt = 0,
        dropout: OpenFraction = 0.05,
        augment_dim: Annotated[int, Range(0, 1_000_000)] = 0,
        has_variance: bool = False,
        class_conditional: bool | Literal["auto"] = "auto",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check(shape, channels, depths, self_attn_depths, patch, skip_stages)
        if mapping_out % 2:
            raise ConfigError(f"network.mapping_out={mapping_out}: must be even, for a cosine and a sine of each wave")
        self.class_conditional = num_classes > 0 if class_conditional == "auto" else class_conditional
        self.patch, self.skip_stages, self.checkpointing = patch, skip_stages, checkpointing
        self.augment_dim, self.has_variance = augment_dim, has_variance
        self.values = outputs * shape[0] * patch**2
        conditions = (
            class_embedding(self.class_conditional, num_classes, mapping_out, partial(Conditions, augment_dim))
            if self.class_conditional or not augment_dim
            else Conditions(augment_dim, 0, mapping_out)
        )
        self.mapping = Mapping(mapping_out, conditions)
        width = channels[max(0, skip_stages - 1)]
        self.enter = nn.Conv2d(shape[0] * patch**2, width, 1)
        self.leave = zeroed(nn.Conv2d(width, self.values + has_variance, 1))
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, (middle, depth, attention) in enumerate(zip(channels, depths, self_attn_depths, strict=True)):
            above = channels[max(0, i - 1)]
            joined = middle if i == len(channels) - 1 else 2 * middle
            for way, first, last in ((self.down, above, middle), (self.up, joined, above)):
                ends = [first, *[middle] * (depth - 1), last]
                level = nn.ModuleList(
                    Layer(start, middle, end, mapping_out, dropout, attention)
                    for start, end in itertools.pairwise(ends)
                )
                way.append(level.requires_grad_(i >= skip_stages))
        self.halved, self.doubled = ReflectedDownsample(FIR), ReflectedUpsample(FIR)

    def forward(
        self, x: Tensor, label: Tensor, cond: Tensor | None = None, augmentation: Tensor | None = None
    ) -> Tensor:
        values = self._values(x, label, cond, augmentation)[:, : self.values]
        # Contiguous, so that noise drawn like the output does not depend on the memory format of the weights.
        return nn.functional.pixel_shuffle(values, self.patch).contiguous()

    def log_variance(self, x: Tensor, label: Tensor, cond: Tensor | None = None) -> Tensor:
        """The output of the variance head (B,), for has_variance=true; arguments as of the network."""
        return self._values(x, label, cond)[:, self.values :].mean(dim=(1, 2, 3))

    def _values(self, x: Tensor, label: Tensor, cond: Tensor | None, augmentation: Tensor | None = None) -> Tensor:
        """The patches of the output, and of the variance head if there is one."""
        embedding = self.mapping(label, cond, augmentation)
        h = self.enter(nn.functional.pixel_unshuffle(x, self.patch))
        used = range(self.skip_stages, len(self.down))
        joined: list[Tensor] = []
        for i in used:
            if i > self.skip_stages:
                joined.append(h)
                h = self.halved(h)
            h = self._run(self.down[i], h, embedding)
        for i in reversed(used):
            h = self._run(self.up[i], h, embedding)
            if i > self.skip_stages:
                h = torch.cat([self.doubled(h), joined.pop()], dim=1)
        return cast(Tensor, self.leave(h))

    def _run(self, level: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        for layer in cast(nn.ModuleList, level):
            if self.checkpointing and torch.is_grad_enabled():
                h = cast(Tensor, checkpoint(layer, h, embedding, use_reentrant=False))
            else:
                h = layer(h, embedding)
        return h


def _check(
    shape: tuple[int, ...],
    channels: tuple[int, ...],
    depths: tuple[int, ...],
    self_attn_depths: tuple[bool, ...],
    patch: int,
    skip_stages: int,
) -> None:
    """Raise ConfigError where the levels are not those of one network, or do not fit an example."""
    if len(shape) != 3:
        raise ConfigError(
            f"network=k_diffusion_unet needs images (C, H, W), but an example of data=... has the shape "
            f"{tuple(shape)}; choose network=mlp or other data"
        )
    levels = len(channels)
    if not 0 < levels == len(depths) == len(self_attn_depths):
        raise ConfigError(
            f"network.channels, network.depths and network.self_attn_depths have {levels}, {len(depths)} and "
            f"{len(self_attn_depths)} levels; give each one entry for every level"
        )
    if skip_stages >= levels:
        raise ConfigError(
            f"network.skip_stages={skip_stages}: must be less than the {levels} levels of network.channels"
        )
    # More halvings than any image allows would take long to count.
    halvings = min(levels - 1 - skip_stages, 64)
    unit = patch * 2**halvings
    # An image of one pixel has no reflection.
    least = unit if halvings == 0 else 2 * unit
    if any(side % unit or side < least for side in shape[1:]):
        found = "x".join(map(str, shape[1:]))
        fitting = "x".join(str(max(least, -(-side // unit) * unit)) for side in shape[1:])
        raise ConfigError(
            f"network.channels has {levels} levels, which with network.patch={patch} and "
            f"network.skip_stages={skip_stages} need sides that are multiples of {unit}, from {least} on, but an "
            f"example of data=... is {found}; the next size that fits is {fitting}; choose data=... of such a size, or "
            "fewer levels"
        )
