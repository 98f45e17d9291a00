"""Resampling of images by a factor 2 with a short filter, which keeps high frequencies from folding into low ones.

Karras et al. 2020; the layers of NCSN++ (Song et al. 2021, appendix H). Outside the image there are zeros,
or its reflection.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

FIR = (1, 3, 3, 1)
"""The filter of StyleGAN2 and of NCSN++."""
BOX = (1, 1)
"""The mean of 2 x 2 pixels on the way down; each pixel 2 x 2 times on the way up."""


class Filter(nn.Module):
    """The outer product of an even number of ``taps`` with itself, its sum 1, for each channel."""

    kernel: Tensor

    def __init__(self, taps: Sequence[float]) -> None:
        super().__init__()
        line = torch.tensor(taps, dtype=torch.float32) / sum(taps)
        self.register_buffer("kernel", torch.outer(line, line)[None, None], persistent=False)
        self.reach = len(taps) // 2

    def each(self, x: Tensor) -> Tensor:
        """The kernel of a convolution with one group for each channel of x."""
        return self.kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)


class Downsample(Filter):
    """Every second row and column of the filtered x: (B, C, H, W) -> (B, C, H / 2, W / 2)."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.each(x), stride=2, padding=self.reach - 1, groups=x.shape[1])


class Upsample(Filter):
    """4 times the filtered x with zeros between its rows and columns: (B, C, H, W) -> (B, C, 2 H, 2 W).

    With ``margin`` the result has so many more rows and columns on each side.
    """

    def __init__(self, taps: Sequence[float], margin: int = 0) -> None:
        super().__init__(taps)
        self.padding = self.reach - 1 - margin

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv_transpose2d(x, 4 * self.each(x), stride=2, padding=self.padding, groups=x.shape[1])


class ReflectedDownsample(Filter):
    """Every second row and column of the filtered x, which is reflected at its edges.

    (B, C, H, W) -> (B, C, H / 2, W / 2), for sides that have at least as many pixels as half of the taps.
    """

    def forward(self, x: Tensor) -> Tensor:
        wide = nn.functional.pad(x, (self.reach - 1,) * 4, mode="reflect")
        return nn.functional.conv2d(wide, self.each(x), stride=2, groups=x.shape[1])


class ReflectedUpsample(Filter):
    """4 times the filtered x with zeros between its rows and columns; x is reflected at its edges.

    (B, C, H, W) -> (B, C, 2 H, 2 W), for sides that have at least as many pixels as half of the taps.
    """

    def forward(self, x: Tensor) -> Tensor:
        border = self.reach // 2
        wide = nn.functional.pad(x, (border,) * 4, mode="reflect")
        padding = self.reach - 1 + 2 * border
        return nn.functional.conv_transpose2d(wide, 4 * self.each(x), stride=2, padding=padding, groups=x.shape[1])


class DownsampleConv(Filter):
    """Every second row and column of conv(filtered x): (B, C, H, W) -> (B, out_channels, H / 2, W / 2)."""

    def __init__(self, channels: int, out_channels: int, taps: Sequence[float]) -> None:
        super().__init__(taps)
        self.conv = nn.Conv2d(channels, out_channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        smooth = nn.functional.conv2d(x, self.each(x), padding=self.reach, groups=x.shape[1])
        result: Tensor = self.conv(smooth)
        return result


class UpsampleConv(nn.Module):
    """conv(upsampled x): (B, C, H, W) -> (B, out_channels, 2 H, 2 W)."""

    def __init__(self, channels: int, out_channels: int, taps: Sequence[float]) -> None:
        super().__init__()
        # The convolution also reads what the filter spreads beyond the image.
        margin = min(1, len(taps) // 2 - 1)
        self.upsample = Upsample(taps, margin)
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1 - margin)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(self.upsample(x))
        return result
