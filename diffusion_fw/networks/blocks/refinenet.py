"""RefineNet with dilated convolutions, as in NCSN and NCSNv2: residual blocks, and their fusion on the way back.

Lin et al. 2017, with ELU and instance normalization++ (Song & Ermon 2019, appendix A). Every block takes (h, row),
where row (B,) int64 is what its normalization may depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import elu
from torch.utils.checkpoint import checkpoint

from diffusion_fw.networks.blocks.sizes import halved_sizes
from diffusion_fw.registry import ConfigError

DILATIONS = (2, 4)
"""Of the last stages, which keep the size of the one before."""

Norm = Callable[[int], nn.Module]
"""A normalization of a number of channels, called with (h, row)."""


def instance_norm_plus(h: Tensor, gamma: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """gamma ((h - m) / s + alpha (m - mean(m)) / std(m)) + beta, m and s the moments of each channel of an example.

    Song & Ermon 2019, appendix A.1: plain instance normalization loses the means m. h (B, C, H, W); the others (C,) or
    (B, C).
    """
    means = h.mean((2, 3))
    variance, center = torch.var_mean(means, dim=1, keepdim=True)
    spread = (means - center) / (variance + 1e-5).sqrt()
    shift = (gamma * alpha * spread + beta)[..., None, None]
    return torch.addcmul(shift, gamma[..., None, None], nn.functional.instance_norm(h))


class NoNorm(nn.Module):
    """h as it is."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, h: Tensor, row: Tensor | None) -> Tensor:
        return h


class ResidualBlock(nn.Module):
    """pool(skip(h)) + pool(conv(elu(norm(conv(elu(norm(h))))))), dilated or, with ``half``, with a mean pool.

    The first block of a stage has a convolution as skip, others the identity. (B, channels, H, W) -> (B, out_channels,
    H', W').
    """

    def __init__(
        self, channels: int, out_channels: int, norm: Norm, dilation: int, half: bool = False, first: bool = False
    ) -> None:
        super().__init__()

        def conv(out: int) -> nn.Conv2d:
            return nn.Conv2d(channels, out, 3, padding=dilation, dilation=dilation)

        self.norm1 = norm(channels)
        self.conv1 = conv(channels)
        self.norm2 = norm(channels)
        self.conv2 = conv(out_channels)
        self.pool = nn.AvgPool2d(2) if half else nn.Identity()
        self.skip: nn.Module = nn.Identity()
        if first:
            self.skip = nn.Conv2d(channels, out_channels, 1) if half else conv(out_channels)

    def forward(self, h: Tensor, row: Tensor | None) -> Tensor:
        residual = self.conv1(elu(self.norm1(h, row)))
        residual = self.conv2(elu(self.norm2(residual, row)))
        result: Tensor = self.pool(self.skip(h)) + self.pool(residual)
        return result


class ConvUnits(nn.Module):
    """``count`` times h + conv(elu(norm(conv(elu(norm(h)))))), without biases."""

    def __init__(self, channels: int, count: int, norm: Norm) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(channels) for _ in range(2 * count))
        self.convs = nn.ModuleList(_conv(channels, channels, bias=False) for _ in range(2 * count))

    def forward(self, h: Tensor, row: Tensor | None) -> Tensor:
        residual = h
        for i, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            residual = conv(elu(norm(residual, row)))
            if i % 2:
                h = residual = h + residual
        return h


class Fusion(nn.Module):
    """The sum of conv(norm(h_i)), each resized to the size of the first."""

    def __init__(self, channels: Sequence[int], out_channels: int, norm: Norm) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(width) for width in channels)
        self.convs = nn.ModuleList(_conv(width, out_channels) for width in channels)

    def forward(self, inputs: Sequence[Tensor], row: Tensor | None) -> Tensor:
        size = inputs[0].shape[2:]
        parts = [conv(norm(h, row)) for h, norm, conv in zip(inputs, self.norms, self.convs, strict=True)]
        sized = [nn.functional.interpolate(h, size=size, mode="bilinear", align_corners=True) for h in parts]
        return torch.stack(sized).sum(0)


class ChainedPooling(nn.Module):
    """h + p_1 + p_2 with p_k = conv(pool(norm(p_(k-1)))) and p_0 = h = elu(input)."""

    def __init__(self, channels: int, norm: Norm, pool: type[nn.Module]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(channels) for _ in range(2))
        self.pool = pool(5, stride=1, padding=2)
        self.convs = nn.ModuleList(_conv(channels, channels, bias=False) for _ in range(2))

    def forward(self, h: Tensor, row: Tensor | None) -> Tensor:
        h = part = elu(h)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            part = conv(self.pool(norm(part, row)))
            h = h + part
        return h


class RefineBlock(nn.Module):
    """Units for each input, their fusion if there are two, chained pooling, and ``units`` more units."""

    def __init__(
        self, channels: Sequence[int], out_channels: int, norm: Norm, pool: type[nn.Module], units: int
    ) -> None:
        super().__init__()
        self.adapt = nn.ModuleList(ConvUnits(width, 2, norm) for width in channels)
        self.fusion = Fusion(channels, out_channels, norm) if len(channels) > 1 else None
        self.pooling = ChainedPooling(out_channels, norm, pool)
        self.units = ConvUnits(out_channels, units, norm)

    def forward(self, row: Tensor | None, *inputs: Tensor) -> Tensor:
        adapted = [adapt(h, row) for h, adapt in zip(inputs, self.adapt, strict=True)]
        h = adapted[0] if self.fusion is None else self.fusion(adapted, row)
        result: Tensor = self.units(self.pooling(h, row), row)
        return result


class RefineNet(nn.Module):
    """A stage of two residual blocks for each factor of ``channel_mult``, and a RefineBlock for each on the way back.

    The stages from the second on halve height and width, but the last two, which have dilations 2 and 4 instead.
    ``norm`` is the normalization of residual blocks and of the end, ``inner_norm`` that of refinement. x (B, C, H, W),
    row (B,) or None -> (B, outputs C, H, W). ``name`` is that of the network in messages.

    Raises ConfigError for data other than images, fewer than three factors, and a size that is not halved exactly or
    down to one pixel.
    """

    class_conditional: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        outputs: int,
        channels: int,
        channel_mult: Sequence[int],
        norm: Norm,
        inner_norm: Norm,
        pool: type[nn.Module],
        checkpointing: bool,
    ) -> None:
        super().__init__()
        levels = len(channel_mult)
        if levels <= len(DILATIONS):
            raise ConfigError(
                f"network.channel_mult={tuple(channel_mult)}: must have at least three factors, "
                f"since the last two stages of network={name} are dilated"
            )
        halvings = levels - len(DILATIONS) - 1
        smallest = halved_sizes(name, shape, levels, halvings)[-1]
        if smallest == (1, 1):
            raise ConfigError(
                f"network={name} normalizes each channel over its pixels, but an image of {shape[1]}x{shape[2]} is one "
                "pixel in the last stage; give network.channel_mult fewer factors or choose data=... of another size"
            )
        widths = [channels * mult for mult in channel_mult]
        dilations = [1] * (levels - len(DILATIONS)) + list(DILATIONS)
        self.checkpointing = checkpointing
        self.enter = nn.Conv2d(shape[0], channels, 3, padding=1)
        self.stages = nn.ModuleList()
        width = channels
        for i, (level_width, dilation) in enumerate(zip(widths, dilations, strict=True)):
            first = ResidualBlock(width, level_width, norm, dilation, half=0 < i <= halvings, first=i > 0)
            self.stages.append(nn.ModuleList([first, ResidualBlock(level_width, level_width, norm, dilation)]))
            width = level_width
        self.refine = nn.ModuleList()
        below: list[int] = []
        for i in reversed(range(levels)):
            out = widths[max(i - 1, 0)] if below else widths[i]
            units = 1 if i > 0 else 3
            self.refine.append(RefineBlock([widths[i], *below], out, inner_norm, pool, units))
            below = [out]
        self.norm = norm(below[0])
        self.leave = nn.Conv2d(below[0], outputs * shape[0], 3, padding=1)

    def refined(self, x: Tensor, row: Tensor | None) -> Tensor:
        """The output for x (B, C, H, W), whose rows of the normalizations are ``row``."""
        h = self.enter(x)
        found = []
        for stage in self.stages:
            for block in cast(nn.ModuleList, stage):
                h = self._run(block, h, row)
            found.append(h)
        below: list[Tensor] = []
        for block in self.refine:
            below = [self._run(block, row, found.pop(), *below)]
        # Contiguous, so that noise drawn like the output does not depend on the memory format of the weights.
        result: Tensor = self.leave(elu(self.norm(below[0], row))).contiguous()
        return result

    def _run(self, block: nn.Module, *given: Any) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(block, *given, use_reentrant=False))
        return cast(Tensor, block(*given))


def _conv(channels: int, out_channels: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 3, padding=1, bias=bias)
